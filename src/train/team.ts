// A run of several ranks: how the micro-batches of a step are dealt, what the ranks sum, and how they stop together.

import type { SampleSizes } from "../data/samples.ts";
import { NeftuneError } from "../errors.ts";
import type { ParameterBlock } from "../model/index.ts";
import type { Team } from "../ranks/team.ts";
import { wishNumbers, wishOfSums } from "../ranks/wish.ts";
import type { MicroBatch } from "./micro-batches.ts";
import { trainedParameters } from "./model.ts";
import type { TrainOptions } from "./options.ts";
import {
  applyGradients,
  type StepBatch,
  type StepCounts,
  type StepModel,
  type StepResult,
  type StepUpdate,
  startGradients,
  startNorm,
} from "./step.ts";

/** What of the parameters ranks exchange. */
type SharedState = Pick<ParameterBlock, "gradients" | "restored" | "afterWrite">;

/** The ranks that divide what full tuning keeps, for the model's options. */
export function partnersOf(team: Team | null, shard: TrainOptions["shard"] = "auto"): { partners?: Team } {
  return team === null || team.size === 1 || shard === "none" ? {} : { partners: team };
}

/** Counts of a step over all ranks: every one knows the sizes of all samples. */
export function countStep(batches: readonly MicroBatch[], sizes: SampleSizes): StepCounts {
  const counts = { samples: 0, tokens: 0, targetTokens: 0 };
  for (const { samples } of batches) {
    counts.samples += samples.length;
    for (const i of samples) {
      counts.tokens += sizes.tokens[i]!;
      counts.targetTokens += sizes.targets[i]!;
    }
  }
  return counts;
}

/**
 * This rank's of a step's micro-batches: dealt in turn, then merged by `merge`. Ranks that exchange in every micro-batch
 * (`isInStep`) have as many each: the last of them may be null.
 */
export function ownOf<T>(
  { size, rank }: Pick<Team, "size" | "rank">,
  batches: readonly T[],
  merge: (dealt: readonly T[]) => readonly T[],
  isInStep: boolean,
): (T | null)[] {
  const mergedOf = (r: number) => {
    const dealt: T[] = [];
    for (let i = r; i < batches.length; i += size) dealt.push(batches[i]!);
    return merge(dealt);
  };
  const own = mergedOf(rank);
  if (!isInStep) return [...own];
  const rounds = Array.from({ length: size }, (_, r) => (r === rank ? own : mergedOf(r)).length);
  return Array.from({ length: Math.max(...rounds) }, (_, i) => own[i] ?? null);
}

export interface TeamStep extends StepResult {
  /** The exit status that some rank asks for; null: none does. */
  stop: number | null;
  communicationSeconds: number;
}

/**
 * One step of all ranks: `own` are this rank's micro-batches (ownOf), `counts` those of all. Gradients, loss and wishes
 * to stop are summed, so that all ranks then do the same. `meanwhile` runs while a GPU works on the gradients.
 */
export function trainStepOfTeam(
  team: Team,
  model: StepModel,
  own: readonly (StepBatch | null)[],
  counts: StepCounts,
  update: StepUpdate,
  wish: number | null = null,
  meanwhile: () => void = () => {},
): TeamStep {
  const before = team.seconds;
  const { gradients } = sharedStateOf(trainedParameters(model));
  const read = startGradients(model, own, counts);
  meanwhile();
  // Gradients may be on their way between ranks: unlike reading, this wait ends where one is gone.
  team.comm.wait(team.device);
  const sums = read();
  const [loss, ...wishes] = team.timed(() => {
    team.comm.allReduce(team.device, gradients);
    return team.sum([sums.loss, ...wishNumbers(wish)]) as [number, ...number[]];
  });
  const result = applyGradients(model, { ...sums, loss }, startNorm(model, counts, update)(), update);
  const communicationSeconds = team.seconds - before;
  return { ...result, stop: wishOfSums(wishes), communicationSeconds };
}

/** Gives all ranks what rank 0 has restored. */
export function broadcastState(team: Team, parameters: SharedState): void {
  for (const tensor of parameters.restored) team.comm.broadcast(team.device, tensor);
  team.comm.wait(team.device);
  parameters.afterWrite();
}

/** The parameters of a model that ranks can train together. */
export function sharedStateOf(parameters: object): SharedState {
  if ("gradients" in parameters) return parameters as SharedState;
  throw new NeftuneError("model", "this model cannot be trained by several ranks");
}

/**
 * Micro-batches of a step over all ranks: what the run began with, where --resume asks for the same for each rank; else
 * those of each rank, times the ranks.
 */
export function microBatchesPerStep(
  perRank: number,
  ranks: number,
  begun: { all: number; perRank: number } | null,
): number {
  return begun?.perRank === perRank ? begun.all : perRank * ranks;
}
