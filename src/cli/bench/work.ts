// What a benchmark step works on, and how many floating-point operations that is worth.

import { type Batch, makeBatch } from "../../data/batch.ts";
import { shuffle } from "../../data/philox.ts";
import { IGNORE, type Sample } from "../../data/sample.ts";
import { type LlamaConfig, type LoraOptions, linearModules, linearShape } from "../../model/index.ts";

/** Rows of full length with every token a target, ids from a fixed sequence: LCG of Numerical Recipes. */
export function denseSamples(count: number, length: number, vocabSize: number, seed: number): Sample[] {
  let state = seed >>> 0;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 3 + Math.floor((state / 2 ** 32) * (vocabSize - 3));
  };
  return Array.from({ length: count }, () => {
    const ids = Int32Array.from({ length }, next);
    return { ids, labels: ids.slice(), truncated: false };
  });
}

/** Micro-batches of a stream of samples, in shuffled order, packed. */
export function makeBatches(samples: readonly Sample[], count: number, size: number, seed: number): Batch[] {
  const order = shuffle(samples.length, seed, 0);
  return Array.from({ length: count }, (_, step) =>
    makeBatch(
      Array.from({ length: size }, (_, i) => samples[order[(step * size + i) % samples.length]!]!),
      { packing: true },
    ),
  );
}

/** True where a sample has something to learn from. */
export const hasTargets = (sample: Sample) => sample.labels.some((label, i) => i > 0 && label !== IGNORE);

/**
 * Model FLOPs of a step, without credit for recomputation. LoRA: 4·N·tokens for forward and dX of the frozen linears
 * (lm_head for target tokens alone) and 6·r·(in + out)·tokens for the adapters. Full: 6·N·tokens. Attention: 4·q·n²/2
 * forward and twice that backward for a sample of n tokens with q = heads · head_dim, its own causal half.
 */
export function stepFlops(config: LlamaConfig, batch: Batch, lora: LoraOptions | null): number {
  const layers = config.numHiddenLayers;
  let linear = 0;
  let adapters = 0;
  for (const module of linearModules) {
    const [out, inputs] = linearShape(config, module);
    linear += layers * out * inputs;
    if (lora?.targetModules.includes(module)) adapters += layers * lora.r * (out + inputs);
  }
  const head = config.vocabSize * config.hiddenSize;
  const passes = lora === null ? 6 : 4;
  const squares = batch.lengths.reduce((sum, n) => sum + n * n, 0);
  const attention = 6 * layers * config.numAttentionHeads * config.headDim * squares;
  return (
    passes * (linear * batch.tokens + head * batch.targets.length) + 6 * adapters * batch.tokens + attention
  );
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
