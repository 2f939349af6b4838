// One optimizer step: gradients from zero, every micro-batch forward and backward, norm, clip, AdamW's update. All that
// trains goes through here; which batches a step has and what is made of its numbers is the caller's matter. A GPU gets
// all micro-batches and the norm before the first number is read: the host waits once.

import type { Batch } from "../data/batch.ts";
import type { RateName } from "../model/index.ts";
import type { AdamWOptions } from "../native/index.ts";
import { reasonToSkip } from "./divergence.ts";
import { type TrainableModel, trainedParameters } from "./model.ts";

/** What a step needs of a model. */
export type StepModel = Pick<TrainableModel, "startBatch"> & {
  readonly parameters: StepParameters | null;
};
type StepParameters = Pick<
  NonNullable<TrainableModel["parameters"]>,
  "zeroGradients" | "skipBatch" | "startGradientNorm" | "adamwStep"
>;

export interface StepBatch {
  batch: Batch;
  /** How many samples the run fed to training before each. */
  draws: BigInt64Array;
}

/** Sums over the micro-batches of a step. */
export interface StepSums {
  /** Mean cross-entropy over all target tokens; 0 where there are none. */
  loss: number;
  samples: number;
  /** Padding not counted. */
  tokens: number;
  targetTokens: number;
}

/** What a step has of samples, whatever comes of them. */
export type StepCounts = Omit<StepSums, "loss">;

export interface StepUpdate {
  /** 0: no clipping. */
  maxGradNorm: number;
  adamw: AdamWOptions;
  /** Learning rates of what has one of its own. */
  rates?: Partial<Record<RateName, number>>;
}

export interface StepResult extends StepSums {
  /** Before clipping; 0 where no token is a target. */
  gradNorm: number;
  /** Why no update was made; null where one was. */
  skipped: string | null;
}

/**
 * Leaves in the parameters' gradients those of the mean loss over all target tokens of `batches`. Of several ranks, each
 * has its share of the loss and gradients: `counts` are those of the whole step, and null stands for a micro-batch that
 * only other ranks have. What is returned gives the sums, once, and waits for them then.
 */
export function startGradients(
  model: StepModel,
  batches: readonly (StepBatch | null)[],
  counts: StepCounts = countBatches(batches.flatMap((one) => one?.batch ?? [])),
): () => StepSums {
  const { targetTokens } = counts;
  const parameters = trainedParameters(model);
  parameters.zeroGradients();
  const reads = batches.map((one) => {
    if (one !== null && one.batch.targets.length > 0)
      return model.startBatch(one.batch, 1 / targetTokens, { draws: one.draws });
    parameters.skipBatch();
    return () => new Float32Array();
  });
  return () => {
    let loss = 0;
    for (const read of reads) loss += read().reduce((sum, value) => sum + value, 0) / targetTokens;
    return { loss, ...counts };
  };
}

/** The same, waited for. */
export const accumulateGradients = (...step: Parameters<typeof startGradients>): StepSums =>
  startGradients(...step)();

export function countBatches(batches: readonly Batch[]): StepCounts {
  const total = (value: (batch: Batch) => number) => batches.reduce((sum, batch) => sum + value(batch), 0);
  return {
    samples: total(({ lengths }) => lengths.length),
    tokens: total(({ tokens }) => tokens),
    targetTokens: total(({ targets }) => targets.length),
  };
}

/** The norm of what startGradients left, before clipping: waits when it is called. 0 where no token is a target. */
export function startNorm(
  model: StepModel,
  { targetTokens }: StepCounts,
  { maxGradNorm }: StepUpdate,
): () => number {
  return targetTokens === 0 ? () => 0 : trainedParameters(model).startGradientNorm(maxGradNorm);
}

/** Updates the parameters with the gradients as startNorm clips them, unless loss or gradients are not finite. */
export function applyGradients(
  model: StepModel,
  sums: StepSums,
  gradNorm: number,
  { adamw, rates }: StepUpdate,
): StepResult {
  const skipped = reasonToSkip(sums.targetTokens, sums.loss, gradNorm);
  if (skipped === null) trainedParameters(model).adamwStep(adamw, rates);
  return { ...sums, gradNorm, skipped };
}

/**
 * One step on `batches`. Throws NeftuneError where the model was loaded without anything to train. `meanwhile` runs while a
 * GPU works on the step.
 */
export function trainStep(
  model: StepModel,
  batches: readonly (StepBatch | null)[],
  update: StepUpdate,
  meanwhile: () => void = () => {},
): StepResult {
  const counts = countBatches(batches.flatMap((one) => one?.batch ?? []));
  const sums = startGradients(model, batches, counts);
  const norm = startNorm(model, counts, update);
  meanwhile();
  return applyGradients(model, sums(), norm(), update);
}
