// NEFTune (arXiv 2310.05914): uniform noise on the embedding output of every token, in training only.

import { NeftuneError } from "../errors.ts";
import type { EmbeddingHook } from "../model/index.ts";
import type { StepMetrics } from "./metrics.ts";
import type { TrainedValues } from "./model.ts";

export interface NeftuneOptions {
  /** The paper's alpha: 5 to 15; 0 is off. */
  alpha: number;
  noise?: "uniform" | "bernoulli" | "gaussian" | "none";
  /** The L of the scale: a sample's own length (the paper), or the padded width of its micro-batch. */
  length?: "true" | "padded";
  seed?: number;
}

/**
 * The hook for `model.embedTokens.registerForwardHook`, or null where there is no noise to add. Each sample's noise
 * is scaled by alpha / sqrt(L·d), computed in float64 and rounded once to float32: in 16 bits L·d overflows.
 */
export function neftune({
  alpha,
  noise = "uniform",
  length = "true",
  seed = 42,
}: NeftuneOptions): EmbeddingHook | null {
  if (!(alpha >= 0 && Number.isFinite(alpha))) {
    throw new NeftuneError("noise", `alpha must be a number of at least 0, got ${alpha}`);
  }
  if (alpha === 0 || noise === "none") return null;
  return ({ lengths, paddedLengths, hiddenSize, draws }) => {
    const L = length === "padded" ? paddedLengths : lengths;
    return {
      kind: noise,
      seed,
      scales: Float32Array.from(L, (n) => noiseScale(alpha, n, hiddenSize)),
      draws,
    };
  };
}

/** alpha / sqrt(L·d) as the float32 that the kernel multiplies with. */
export function noiseScale(alpha: number, length: number, hiddenSize: number): number {
  return Math.fround(alpha / Math.sqrt(length * hiddenSize));
}

/** What a learned scale of the noise has become; null where none is trained. */
export function readNoiseScale(parameters: TrainedValues): StepMetrics["neftScale"] {
  const [scale] = parameters.part("noise");
  if (scale === undefined) return null;
  const values = parameters.read(scale.name);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return { mean, min: Math.min(...values), max: Math.max(...values) };
}
