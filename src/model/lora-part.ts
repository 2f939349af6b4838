// LoRA's matrices as a part of what is trained. They start as PEFT's do: A Kaiming-uniform with a = √5, which is
// U(−1/√in, 1/√in), and B zero; the update is zero at first.

import { random } from "../native/index.ts";
import type { LlamaConfig } from "./config.ts";
import { type LoraOptions, loraParameterSpecs } from "./lora.ts";
import type { TrainedPart } from "./parameters.ts";

/** A and B of every target, `rank` wide on the device; tensor i of LoRA's order is draw i of the initialization stream. */
export const loraPart = (config: LlamaConfig, lora: LoraOptions, rank: number): TrainedPart => ({
  name: "lora",
  specs: loraParameterSpecs(config, lora, rank),
  initialize(device, tensors, seed) {
    for (const [draw, { name, values }] of tensors.entries()) {
      const isA = name.endsWith("lora_A.weight");
      if (!isA || rank !== lora.r) device.fill(values, 0);
      if (isA) random(device, values.rows(0, lora.r), "uniform", 1 / Math.sqrt(values.shape[1]!), seed, draw);
    }
  },
});
