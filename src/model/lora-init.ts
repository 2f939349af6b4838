// How LoRA starts, as PEFT's: A Kaiming-uniform with a = √5, which is U(−1/√in, 1/√in), and B zero; the update is
// zero at first.

import { type Device, random } from "../native/index.ts";
import type { Parameters } from "./parameters.ts";

/** Fills A and B; tensor i of LoRA's order is draw i of the initialization stream. */
export function initializeLora(device: Device, parameters: Parameters, seed: number): void {
  for (const [draw, { name, shape }] of parameters.part("lora").entries()) {
    const values = parameters.master(name);
    if (name.endsWith("lora_A.weight")) {
      random(device, values, "uniform", 1 / Math.sqrt(shape[1]!), seed, draw);
    } else {
      device.fill(values, 0);
    }
  }
  parameters.afterWrite();
}
