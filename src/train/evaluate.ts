// Loss and perplexity of a model on a data set: noise and dropout off, nothing changed.

import { countTargets, type Sample } from "../data/sample.ts";
import { type SampleSource, samplesOf } from "../data/samples.ts";
import { NeftuneError } from "../errors.ts";
import type { Team } from "../ranks/team.ts";
import { agreedWish, stopError } from "../ranks/wish.ts";
import { mergeSamples } from "./micro-batches.ts";
import type { EvaluableModel } from "./model.ts";
import { layOut } from "./order.ts";

export interface EvaluateOptions {
  /** Samples at a time. */
  batchSize: number;
  packing: boolean;
  /** Divides batches of more tokens, padding included; 0, null or absent: none. */
  microBatchTokens?: number | null;
  signal?: AbortSignal;
  /** Divides the batches among its ranks; every rank has the whole result. */
  team?: Team | null;
  /** Told after every batch how many samples are done. */
  onProgress?: (samples: number) => void;
}

export interface Evaluation {
  /** Mean cross-entropy over all target tokens. */
  loss: number;
  perplexity: number;
  samples: number;
  targetTokens: number;
  seconds: number;
  /** In the order of the data set. */
  perSample: {
    /** Over a sample's own targets; NaN where it has none. */
    losses: Float64Array; // [samples]
    targetTokens: Uint32Array; // [samples]
  };
}

/** Throws InterruptedError when `signal` aborts, NeftuneError where the data set has no target token. */
export async function evaluate(
  model: EvaluableModel,
  source: SampleSource,
  options: EvaluateOptions,
): Promise<Evaluation> {
  const start = performance.now();
  const samples = samplesOf(source);
  const perSample: Evaluation["perSample"] = {
    losses: new Float64Array(samples.length),
    targetTokens: new Uint32Array(samples.length),
  };
  const { team = null, batchSize } = options;
  const sums = new Float64Array(samples.length); // of each sample's losses
  const batches = Math.ceil(samples.length / batchSize);
  for (let i = 0; i < batches; i++) {
    const at = i * batchSize;
    if (team === null || i % team.size === 0) {
      await eventLoopTurn();
      expectGoingOn(at, options.signal, team);
    }
    if (team !== null && !team.isOwn(i)) continue;
    const size = Math.min(batchSize, samples.length - at);
    const part = Array.from({ length: size }, (_, k) => samples.get(at + k));
    for (const places of dividedBatch(part, options)) {
      const batch = layOut(
        Array.from(places, (k) => part[k]!),
        options.packing,
      );
      const losses = batch.targets.length === 0 ? new Float32Array() : model.evaluate(batch);
      let next = 0;
      for (const k of places) {
        const count = countTargets(part[k]!.labels);
        sums[at + k] = losses.subarray(next, next + count).reduce((total, loss) => total + loss, 0);
        perSample.targetTokens[at + k] = count;
        next += count;
      }
    }
    options.onProgress?.(at + size);
  }
  if (team !== null) exchange(team, batchSize, sums, perSample.targetTokens);
  let [sum, targetTokens] = [0, 0];
  for (const [i, count] of perSample.targetTokens.entries()) {
    perSample.losses[i] = count === 0 ? Number.NaN : sums[i]! / count;
    sum += sums[i]!;
    targetTokens += count;
  }
  if (targetTokens === 0) {
    throw new NeftuneError("data", `none of the ${samples.length} samples to evaluate has a target token`);
  }
  const loss = sum / targetTokens;
  const seconds = (performance.now() - start) / 1000;
  return { loss, perplexity: Math.exp(loss), samples: samples.length, targetTokens, seconds, perSample };
}

/** Places in a batch that the model sees at a time. */
function dividedBatch(
  batch: readonly Sample[],
  { packing, microBatchTokens = null }: EvaluateOptions,
): readonly Int32Array[] {
  const lengths = batch.map(({ ids }) => ids.length);
  return mergeSamples([Int32Array.from(batch.keys())], lengths, { packing, microBatchTokens });
}

/** Ranks that evaluate together stop together, whichever of them was asked to. */
function expectGoingOn(done: number, signal: AbortSignal | undefined, team: Team | null): void {
  const wish = agreedWish(team, signal);
  if (wish !== null) throw stopError(`the evaluation was stopped after ${done} samples`, wish, team);
}

/** Fills in what the other ranks found of the batches that were theirs. */
function exchange(team: Team, batchSize: number, sums: Float64Array, counts: Uint32Array): void {
  const ownerOf = (i: number) => Math.floor(i / batchSize) % team.size;
  const own = Array.from(sums.keys()).filter((i) => ownerOf(i) === team.rank);
  const bytes = new Uint8Array(Float64Array.from(own.flatMap((i) => [sums[i]!, counts[i]!])).buffer);
  const found = team.gather(bytes).map((part) => new Float64Array(part.buffer));
  const read = new Array<number>(team.size).fill(0);
  for (const i of sums.keys()) {
    const rank = ownerOf(i);
    sums[i] = found[rank]![read[rank]!++]!;
    counts[i] = found[rank]![read[rank]!++]!;
  }
}

/** Lets timers and signals in: native calls block the thread. */
export function eventLoopTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
