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

/** What AdamW steps: flat tensors of equal size. */
export interface AdamWValues {
  parameters: Tensor; // f32 [n]
  /** Receives the rounded parameters. */
  copy: Tensor | null; // bf16 [n]
  gradients: Tensor; // f32 [n]
  /** What gradients are multiplied by; null: 1. */
  scale: Tensor | null; // f32 [1]
}

function expectValues(op: string, { parameters, copy, gradients }: AdamWValues): number {
  const n = parameters.size;
  expectVector(op, "parameters", parameters, "f32", n);
  expectVector(op, "gradients", gradients, "f32", n);
  if (copy !== null) expectVector(op, "copy", copy, "bf16", n);
  return n;
}

const numbersOf = ({ learningRate, beta1, beta2, epsilon, weightDecay, step }: AdamWOptions) =>
  [learningRate, beta1, beta2, epsilon, weightDecay, step] as const;

/** AdamW (arXiv 1711.05101) with float32 moments. */
export function adamw(
  device: Device,
  values: AdamWValues,
  m: Tensor,
  v: Tensor,
  options: AdamWOptions,
): void {
  const n = expectValues("adamw", values);
  expectVector("adamw", "m", m, "f32", n);
  expectVector("adamw", "v", v, "f32", n);
  const { parameters, copy, gradients, scale } = values;
  const pointers = [parameters.ptr, copy?.ptr ?? null, gradients.ptr, m.ptr, v.ptr] as const;
  device.call("nt_adamw", ...pointers, n, ...numbersOf(options), scale?.ptr ?? null);
}

/** Values that share one absmax in an 8-bit moment. */
export const stateBlock = 256;

/** A moment in 8 bits: codes of the dynamic map, scaled by their block's absmax. */
export interface Moment8bit {
  codes: Tensor; // i32 [⌈n / 4⌉], four codes a word
  absmax: Tensor; // f32 [⌈n / 256⌉]
}

/** The same with moments in 8 bits (arXiv 2110.02861). */
export function adamw8bit(
  device: Device,
  values: AdamWValues,
  m: Moment8bit,
  v: Moment8bit,
  options: AdamWOptions,
): void {
  const n = expectValues("adamw_8bit", values);
  for (const [name, { codes, absmax }] of [
    ["m", m],
    ["v", v],
  ] as const) {
    expectVector("adamw_8bit", name, codes, "i32", Math.ceil(n / 4));
    expectVector("adamw_8bit", `${name}'s absmax`, absmax, "f32", Math.ceil(n / stateBlock));
  }
  const { parameters, copy, gradients, scale } = values;
  const pointers = [parameters.ptr, copy?.ptr ?? null, gradients.ptr] as const;
  const state = [m.codes.ptr, v.codes.ptr, m.absmax.ptr, v.absmax.ptr] as const;
  device.call("nt_adamw_8bit", ...pointers, ...state, n, ...numbersOf(options), scale?.ptr ?? null);
}
