// A scale of NEFTune's noise for each hidden dimension, trained beside the model, 1 at the start. Noisy Networks
// (Fortunato et al. 2017, arXiv 1706.10295) learn the size of the noise on their weights; here it is that on embeddings.

import type { Device } from "../native/index.ts";
import type { LlamaConfig } from "./config.ts";
import type { Parameters, TrainedPart } from "./parameters.ts";

export const NOISE_SCALE = "neft_scale";

export const noiseScalePart = (config: LlamaConfig): TrainedPart => ({
  name: "noise",
  specs: [{ name: NOISE_SCALE, shape: [config.hiddenSize] }],
});

/** A scale of 1 is NEFTune as the paper has it. */
export function initializeNoiseScale(device: Device, parameters: Parameters): void {
  for (const { name, size } of parameters.part("noise"))
    device.write(parameters.master(name), new Float32Array(size).fill(1));
}
