// SwiGLU. Formulas: kernels/neftune.h.

import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { activationCode, expectContiguous, expectMatrix } from "./check.ts";

/** h[T,I] = silu(gate) · up, gateUp [T,2I]. */
export function swigluForward(device: Device, h: Tensor, gateUp: Tensor): void {
  const op = "swiglu_forward";
  const [T, I] = [h.rowCount, h.columnCount];
  expectMatrix(op, "gateUp", gateUp, h.dtype, T, 2 * I);
  for (const tensor of [h, gateUp]) expectContiguous(op, "h and gateUp", tensor);
  device.call("nt_swiglu_forward", activationCode(op, h), h.ptr, gateUp.ptr, T, I);
}

/** gateUp becomes its own gradient; h (null: not wanted) is computed anew, and may be dh itself. */
export function swigluBackward(device: Device, gateUp: Tensor, h: Tensor | null, dh: Tensor): void {
  const op = "swiglu_backward";
  const [T, I] = [dh.rowCount, dh.columnCount];
  expectMatrix(op, "gateUp", gateUp, dh.dtype, T, 2 * I);
  if (h !== null) expectMatrix(op, "h", h, dh.dtype, T, I);
  for (const tensor of [dh, gateUp]) expectContiguous(op, "dh and gateUp", tensor);
  device.call("nt_swiglu_backward", activationCode(op, dh), gateUp.ptr, h?.ptr ?? null, dh.ptr, T, I);
}

/**
 * swigluBackward where h is wanted for the gradient of a LoRA A alone: da[R,I] (float32) += g[T,R]ᵀ·h. dh is undefined
 * afterwards.
 */
export function swigluBackwardLora(device: Device, gateUp: Tensor, da: Tensor, g: Tensor, dh: Tensor): void {
  const op = "swiglu_backward_lora";
  const [T, I, R] = [dh.rowCount, dh.columnCount, g.columnCount];
  expectMatrix(op, "gateUp", gateUp, dh.dtype, T, 2 * I);
  expectMatrix(op, "g", g, dh.dtype, T, R);
  expectMatrix(op, "da", da, "f32", R, I);
  for (const tensor of [dh, gateUp, g, da]) expectContiguous(op, "dh, gateUp, g and da", tensor);
  device.call("nt_swiglu_backward_lora", activationCode(op, dh), gateUp.ptr, da.ptr, g.ptr, dh.ptr, T, R, I);
}
