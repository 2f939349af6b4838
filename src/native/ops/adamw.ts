// The gradient norm and AdamW. Formulas: kernels/neftune.h.

import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { expectVector } from "./check.ts";

/** result[0] = ‖gradients‖₂, result[1] = the factor that clips it to maxNorm (1 where maxNorm ≤ 0). */
export function gradientNorm(device: Device, result: Tensor, gradients: Tensor, maxNorm: number): void {
  expectVector("gradient_norm", "result", result, "f32", 2);
  expectVector("gradient_norm", "gradients", gradients, "f32", gradients.size);
  device.call("nt_gradient_norm", result.ptr, gradients.ptr, gradients.size, maxNorm);
}

export interface AdamWOptions {
  learningRate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  /** Counted from 1. */
  step: number;
}

/** AdamW (arXiv 1711.05101) on flat float32 tensors; `copy` (bf16 or null) receives the rounded parameters. */
export function adamw(
  device: Device,
  parameters: Tensor,
  copy: Tensor | null,
  gradients: Tensor,
  m: Tensor,
  v: Tensor,
  options: AdamWOptions,
  gradientScale: Tensor | null,
): void {
  const n = parameters.size;
  for (const [name, tensor] of [
    ["parameters", parameters],
    ["gradients", gradients],
    ["m", m],
    ["v", v],
  ] as const) {
    expectVector("adamw", name, tensor, "f32", n);
  }
  if (copy !== null) expectVector("adamw", "copy", copy, "bf16", n);
  device.call(
    "nt_adamw",
    parameters.ptr,
    copy?.ptr ?? null,
    gradients.ptr,
    m.ptr,
    v.ptr,
    n,
    options.learningRate,
    options.beta1,
    options.beta2,
    options.epsilon,
    options.weightDecay,
    options.step,
    gradientScale?.ptr ?? null,
  );
}
