// SwiGLU. Formulas: kernels/neftune.h.

import { NeftuneError } from "../../errors.ts";
import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { activationCode, expectContiguous, expectMatrix } from "./check.ts";

/** h[T,I] = silu(gate) · up, gateUp [T,2I]. */
export function swigluForward(device: Device, h: Tensor, gateUp: Tensor): void {
  const op = "swiglu_forward";
  const [T, I] = [h.rowCount, h.columnCount];
  expectMatrix(op, "gateUp", gateUp, h.dtype, T, 2 * I);
  device.call(
    "nt_swiglu_forward",
    activationCode(op, h),
    h.ptr,
    h.rowStride,
    gateUp.ptr,
    gateUp.rowStride,
    T,
    I,
  );
}

/** gateUp becomes its own gradient; h (null: not wanted) is computed anew, and may be dh itself. */
export function swigluBackward(device: Device, gateUp: Tensor, h: Tensor | null, dh: Tensor): void {
  const op = "swiglu_backward";
  const [T, I] = [dh.rowCount, dh.columnCount];
  expectMatrix(op, "gateUp", gateUp, dh.dtype, T, 2 * I);
  if (h !== null) {
    expectMatrix(op, "h", h, dh.dtype, T, I);
    if (h.rowStride !== dh.rowStride)
      throw new NeftuneError("shape", `${op}: h and dh must have the same row distance`);
  }
  device.call(
    "nt_swiglu_backward",
    activationCode(op, dh),
    gateUp.ptr,
    gateUp.rowStride,
    h?.ptr ?? null,
    dh.ptr,
    dh.rowStride,
    T,
    I,
  );
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
  expectContiguous(op, "da", da);
  device.call(
    "nt_swiglu_backward_lora",
    activationCode(op, dh),
    gateUp.ptr,
    gateUp.rowStride,
    da.ptr,
    g.ptr,
    g.rowStride,
    dh.ptr,
    dh.rowStride,
    T,
    R,
    I,
  );
}
