// LoRA's own products. Formulas: kernels/neftune.h.

import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { activationCode, expectContiguous, expectMatrix } from "./check.ts";

/** u[T,R] = scale · x[T,in]·A[R,in]ᵀ, for the stacked A of all projections that read x. */
export function loraForward(device: Device, u: Tensor, x: Tensor, a: Tensor, scale: number): void {
  const op = "lora_forward";
  const [T, R, inputs] = [x.rowCount, u.columnCount, x.columnCount];
  expectMatrix(op, "u", u, x.dtype, T, R);
  expectMatrix(op, "A", a, x.dtype, R, inputs);
  expectContiguous(op, "u", u);
  device.call(
    "nt_lora_forward",
    activationCode(op, x),
    u.ptr,
    x.ptr,
    x.rowStride,
    a.ptr,
    scale,
    T,
    R,
    inputs,
  );
}

/** g[T,r] = scale · dy[T,out]·B[out,r]; db[out,r] (float32; null: not wanted) += dyᵀ·u[T,r]. */
export function loraBackward(
  device: Device,
  g: Tensor,
  db: Tensor | null,
  dy: Tensor,
  u: Tensor,
  b: Tensor,
  scale: number,
): void {
  const op = "lora_backward";
  const [T, out, rank] = [dy.rowCount, dy.columnCount, b.columnCount];
  expectMatrix(op, "g", g, dy.dtype, T, rank);
  expectMatrix(op, "B", b, dy.dtype, out, rank);
  if (db !== null) {
    expectMatrix(op, "u", u, dy.dtype, T, rank);
    expectMatrix(op, "db", db, "f32", out, rank);
  }
  device.call(
    "nt_lora_backward",
    activationCode(op, dy),
    g.ptr,
    g.rowStride,
    db?.ptr ?? null,
    dy.ptr,
    dy.rowStride,
    u.ptr,
    u.rowStride,
    b.ptr,
    scale,
    T,
    out,
    rank,
  );
}

/** da[R,in] (float32) += g[T,R]ᵀ·x[T,in]. */
export function loraBackwardA(device: Device, da: Tensor, g: Tensor, x: Tensor): void {
  const op = "lora_backward_a";
  const [T, R, inputs] = [x.rowCount, g.columnCount, x.columnCount];
  expectMatrix(op, "g", g, x.dtype, T, R);
  expectMatrix(op, "da", da, "f32", R, inputs);
  expectContiguous(op, "g", g);
  device.call("nt_lora_backward_a", activationCode(op, x), da.ptr, g.ptr, x.ptr, x.rowStride, T, R, inputs);
}
