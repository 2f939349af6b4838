// Which samples go into which step. Everything follows from the step's number, so that a resumed run needs nothing
// else, and no layout of the batch (packing, micro-batch size) changes the samples of a step.

import { makeBatch } from "../data/batch.ts";
import { shuffle } from "../data/philox.ts";
import type { Sample } from "../data/sample.ts";
import { type SampleSizes, type SampleSource, samplesOf, sizesOf } from "../data/samples.ts";
import { NeftuneError } from "../errors.ts";
import { type MicroBatch, mergeSamples } from "./micro-batches.ts";

export interface OrderOptions {
  batchSize: number;
  gradientAccumulationSteps: number;
  shuffle: "seed" | "none";
  seed: number;
}

/**
 * The order of a run. An epoch is every sample once; its last step and last micro-batch may be smaller, as with
 * Transformers' Trainer. Epoch e is shuffled by stream 2 of the seed, anew each time.
 */
export class SampleOrder {
  readonly samples: number;
  readonly samplesPerStep: number;
  readonly stepsPerEpoch: number;
  readonly #options: OrderOptions;
  #epoch = -1;
  #permutation: Int32Array = new Int32Array();

  constructor(samples: number, options: OrderOptions) {
    if (samples < 1)
      throw new NeftuneError("data", "the data set has no samples; training needs at least one");
    this.samples = samples;
    this.samplesPerStep = options.batchSize * options.gradientAccumulationSteps;
    this.stepsPerEpoch = Math.ceil(samples / this.samplesPerStep);
    this.#options = options;
  }

  /** The micro-batches of step `step`, counted from 0 over all epochs. */
  step(step: number): MicroBatch[] {
    const epoch = Math.floor(step / this.stepsPerEpoch);
    let drawn = epoch * this.samples + (step % this.stepsPerEpoch) * this.samplesPerStep;
    return this.batches(step).map((samples) => ({
      samples,
      draws: BigInt64Array.from(samples, () => BigInt(drawn++)),
    }));
  }

  /** The samples of every micro-batch of step `step`. */
  batches(step: number): Int32Array[] {
    const permutation = this.#shuffled(Math.floor(step / this.stepsPerEpoch));
    const begin = (step % this.stepsPerEpoch) * this.samplesPerStep;
    const end = Math.min(begin + this.samplesPerStep, this.samples);
    const batches: Int32Array[] = [];
    for (let at = begin; at < end; at += this.#options.batchSize) {
      batches.push(permutation.subarray(at, Math.min(at + this.#options.batchSize, end)));
    }
    return batches;
  }

  #shuffled(epoch: number): Int32Array {
    if (epoch !== this.#epoch) {
      this.#permutation =
        this.#options.shuffle === "seed"
          ? shuffle(this.samples, this.#options.seed, epoch)
          : Int32Array.from({ length: this.samples }, (_, i) => i);
      this.#epoch = epoch;
    }
    return this.#permutation;
  }
}

/** Steps of a run: ⌈epochs · steps per epoch⌉, or maxSteps where that is fewer. */
export function totalSteps(order: SampleOrder, epochs: number, maxSteps: number | null): number {
  return Math.min(Math.ceil(epochs * order.stepsPerEpoch), maxSteps ?? Number.POSITIVE_INFINITY);
}

/** The most that any micro-batch has: what the memory plan is made for. */
export interface BatchLimits {
  /** Rows, padding included. */
  maxTokens: number;
  maxTargets: number;
  maxSequences: number;
  /** The longest sample. */
  maxPosition: number;
}

/** How a step's samples get into its micro-batches, beside --batch-size. */
export interface Dealing {
  microBatchTokens: number | null;
  ranks: number;
}

/** Limits over all micro-batches, of any rank, of steps 0 … steps − 1. */
export function trainingLimits(
  source: SampleSource,
  order: SampleOrder,
  steps: number,
  packing: boolean,
  { microBatchTokens, ranks }: Dealing = { microBatchTokens: null, ranks: 1 },
): BatchLimits {
  const sizes = sizesOf(samplesOf(source));
  const batches = function* () {
    for (let step = 0; step < steps; step++) {
      const all = order.batches(step);
      for (let rank = 0; rank < ranks; rank++) {
        const own = all.filter((_, i) => i % ranks === rank);
        yield* mergeSamples(own, sizes.tokens, { packing, microBatchTokens });
      }
    }
  };
  return limitsOf(sizes, batches(), packing);
}

/**
 * Limits over all batches of an evaluation: `batchSize` samples at a time, in file order, divided as evaluate() divides
 * them.
 */
export function evaluationLimits(
  samples: SampleSource,
  batchSize: number,
  packing: boolean,
  microBatchTokens: number | null = null,
): BatchLimits {
  const sizes = sizesOf(samplesOf(samples));
  const batches = function* () {
    for (let at = 0; at < samples.length; at += batchSize) {
      const length = Math.min(batchSize, samples.length - at);
      const batch = Int32Array.from({ length }, (_, i) => at + i);
      yield* mergeSamples([batch], sizes.tokens, { packing, microBatchTokens });
    }
  };
  return limitsOf(sizes, batches(), packing);
}

function limitsOf(
  { tokens: lengths, targets }: SampleSizes,
  batches: Iterable<Int32Array>,
  packing: boolean,
): BatchLimits {
  let limits: BatchLimits = { maxTokens: 1, maxTargets: 1, maxSequences: 1, maxPosition: 1 };
  for (const batch of batches) {
    let [longest, tokens, targetTokens] = [0, 0, 0];
    for (const i of batch) {
      longest = Math.max(longest, lengths[i]!);
      tokens += lengths[i]!;
      targetTokens += targets[i]!;
    }
    limits = mergeLimits(limits, {
      maxTokens: packing ? tokens : longest * batch.length,
      maxTargets: targetTokens,
      maxSequences: batch.length,
      maxPosition: longest,
    });
  }
  return limits;
}

/** What holds the batches of both. */
export function mergeLimits(a: BatchLimits, b: BatchLimits): BatchLimits {
  return {
    maxTokens: Math.max(a.maxTokens, b.maxTokens),
    maxTargets: Math.max(a.maxTargets, b.maxTargets),
    maxSequences: Math.max(a.maxSequences, b.maxSequences),
    maxPosition: Math.max(a.maxPosition, b.maxPosition),
  };
}

/** Lays samples out as kernels take them. Padding is id 0, which nothing reads: it comes last and has no target. */
export function layOut(samples: readonly Sample[], packing: boolean): ReturnType<typeof makeBatch> {
  return makeBatch(samples, packing ? { packing } : { packing, padId: 0 });
}
