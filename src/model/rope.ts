// Rotary position embedding (arXiv 2104.09864): the tables of cosines and sines, scaled as the config says.

import type { LlamaConfig } from "./config.ts";

/**
 * The frequencies θ^(−2i/headDim), i < headDim / 2, in float32 as Transformers computes them, scaled:
 * `linear` divides all by the factor; `llama3` and `yarn` (arXiv 2309.00071) divide long wavelengths, keep short ones
 * and blend between (Transformers, modeling_rope_utils).
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
  if (scaling.type === "yarn") return yarnFrequencies(config, scaling);
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

/** YaRN: a ramp over the dimensions, from those that turn `betaFast` times within the original length to `betaSlow`. */
function yarnFrequencies(
  { headDim, ropeTheta }: LlamaConfig,
  scaling: Extract<LlamaConfig["ropeScaling"], { type: "yarn" }>,
): Float32Array {
  const dimension = (turns: number) =>
    (headDim * Math.log(scaling.originalMaxPositionEmbeddings / (turns * 2 * Math.PI))) /
    (2 * Math.log(ropeTheta));
  let [low, high] = [dimension(scaling.betaFast), dimension(scaling.betaSlow)];
  if (scaling.truncate) [low, high] = [Math.floor(low), Math.ceil(high)];
  [low, high] = [Math.max(low, 0), Math.min(high, headDim - 1)];
  if (low === high) high += 0.001;
  return Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const wavelength = Math.fround(ropeTheta ** Math.fround((2 * i) / headDim)); // over 2π
    const ramp = Math.min(
      1,
      Math.max(0, Math.fround(Math.fround(i - Math.fround(low)) / Math.fround(high - low))),
    );
    const kept = Math.fround(1 - ramp);
    const divided = Math.fround(1 / Math.fround(scaling.factor * wavelength));
    return Math.fround(divided * Math.fround(1 - kept)) + Math.fround(Math.fround(1 / wavelength) * kept);
  });
}

/** cos and sin of position · frequency, times YaRN's attention factor, float32 [positions, headDim / 2] each. */
export function ropeTables(
  config: LlamaConfig,
  positions: number,
): { cosine: Float32Array; sine: Float32Array } {
  const frequencies = inverseFrequencies(config);
  const factor = config.ropeScaling?.type === "yarn" ? config.ropeScaling.attentionFactor : 1;
  const half = frequencies.length;
  const cosine = new Float32Array(positions * half);
  const sine = new Float32Array(positions * half);
  for (let position = 0; position < positions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * frequencies[i]!);
      cosine[position * half + i] = Math.fround(Math.cos(angle)) * factor;
      sine[position * half + i] = Math.fround(Math.sin(angle)) * factor;
    }
  }
  return { cosine, sine };
}
