// A scale of NEFTune's noise for each hidden dimension, trained beside the model, 1 at the start. Noisy Networks
// (Fortunato et al. 2017, arXiv 1706.10295) learn the size of the noise on their weights; here it is that on embeddings.

import type { LlamaConfig } from "./config.ts";
import type { TrainedPart } from "./parameters.ts";

export const NOISE_SCALE = "neft_scale";

/** A scale of 1 is NEFTune as the paper has it. */
export const noiseScalePart = (config: LlamaConfig): TrainedPart => ({
  name: "noise",
  specs: [{ name: NOISE_SCALE, shape: [config.hiddenSize] }],
  initialize(device, tensors) {
    for (const { values } of tensors) device.write(values, new Float32Array(values.size).fill(1));
  },
});
