// Rotary position embedding (arXiv 2104.09864): the tables of cosines and sines, with Llama's two kinds of scaling.

import type { LlamaConfig } from "./config.ts";

/**
 * The frequencies θ^(−2i/headDim), i < headDim / 2, in float32 as Transformers computes them, scaled:
 * `linear` divides all by the factor; `llama3` divides long wavelengths, keeps short ones and blends between
 * (Transformers, modeling_rope_utils).
 */
export function inverseFrequencies(config: LlamaConfig): Float32Array {
  const half = config.headDim / 2;
  const frequencies = new Float32Array(half);
  for (let i = 0; i < half; i++) {
    const exponent = Math.fround((2 * i) / config.headDim);
    frequencies[i] = 1 / Math.fround(config.ropeTheta ** exponent);
  }
  const scaling = config.ropeScaling;
  if (scaling === null) return frequencies;
  if (scaling.type === "linear") return frequencies.map((frequency) => frequency / scaling.factor);
  const longest = scaling.originalMaxPositionEmbeddings / scaling.lowFreqFactor;
  const shortest = scaling.originalMaxPositionEmbeddings / scaling.highFreqFactor;
  return frequencies.map((frequency) => {
    const wavelength = Math.fround(Math.fround(2 * Math.PI) / frequency);
    if (wavelength > longest) return frequency / scaling.factor;
    if (wavelength < shortest) return frequency;
    const smooth = Math.fround(
      (scaling.originalMaxPositionEmbeddings / wavelength - scaling.lowFreqFactor) /
        (scaling.highFreqFactor - scaling.lowFreqFactor),
    );
    return ((1 - smooth) * frequency) / scaling.factor + smooth * frequency;
  });
}

/** cos and sin of position · frequency, float32 [positions, headDim / 2] each. */
export function ropeTables(
  config: LlamaConfig,
  positions: number,
): { cosine: Float32Array; sine: Float32Array } {
  const frequencies = inverseFrequencies(config);
  const half = frequencies.length;
  const cosine = new Float32Array(positions * half);
  const sine = new Float32Array(positions * half);
  for (let position = 0; position < positions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * frequencies[i]!);
      cosine[position * half + i] = Math.cos(angle);
      sine[position * half + i] = Math.sin(angle);
    }
  }
  return { cosine, sine };
}
