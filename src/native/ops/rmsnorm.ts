// RMSNorm with the residual sum before it. Formulas: kernels/neftune.h.

import { NeftuneError } from "../../errors.ts";
import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { activationCode, expectContiguous, expectMatrix, expectVector } from "./check.ts";

/**
 * sum = x + delta; y = sum · rstd · weight. All [T,H] but weight [H] and rstd [T]; y may lie in wider rows. Without delta,
 * sum is not written.
 */
export function rmsnormForward(
  device: Device,
  y: Tensor,
  rstd: Tensor,
  x: Tensor,
  weight: Tensor,
  eps: number,
  residual: { delta: Tensor; sum: Tensor } | null = null,
): void {
  const op = "rmsnorm_forward";
  const [T, H] = [x.rowCount, x.columnCount];
  expectMatrix(op, "y", y, x.dtype, T, H);
  expectVector(op, "weight", weight, "f32", H);
  expectVector(op, "rstd", rstd, "f32", T);
  expectContiguous(op, "x", x);
  if (residual !== null) {
    expectVector(op, "delta", residual.delta, x.dtype, T * H);
    expectVector(op, "sum", residual.sum, x.dtype, T * H);
  }
  const [sum, delta] = [residual?.sum.ptr ?? null, residual?.delta.ptr ?? null];
  device.call(
    "nt_rmsnorm_forward",
    activationCode(op, x),
    y.ptr,
    y.rowStride,
    sum,
    rstd.ptr,
    x.ptr,
    delta,
    weight.ptr,
    T,
    H,
    eps,
  );
}

/**
 * dx[T,H] = the norm's input gradient + residual (the gradient that comes past it, in rows as wide as dx's); dweight[H] +=
 * (null: frozen).
 */
export function rmsnormBackward(
  device: Device,
  dx: Tensor,
  dweight: Tensor | null,
  dy: Tensor,
  x: Tensor,
  weight: Tensor,
  rstd: Tensor,
  residual: Tensor | null,
): void {
  const op = "rmsnorm_backward";
  const [T, H] = [x.rowCount, x.columnCount];
  for (const [name, tensor] of [
    ["dx", dx],
    ["dy", dy],
    ["x", x],
  ] as const) {
    expectMatrix(op, name, tensor, x.dtype, T, H);
    if (tensor !== dx) expectContiguous(op, name, tensor);
  }
  if (residual !== null) {
    expectMatrix(op, "residual", residual, x.dtype, T, H);
    if (residual.rowStride !== dx.rowStride)
      throw new NeftuneError("shape", `${op}: residual and dx must have the same row distance`);
  }
  if (dweight !== null) expectVector(op, "dweight", dweight, "f32", H);
  expectVector(op, "weight", weight, "f32", H);
  expectVector(op, "rstd", rstd, "f32", T);
  device.call(
    "nt_rmsnorm_backward",
    activationCode(op, x),
    dx.ptr,
    dx.rowStride,
    dweight?.ptr ?? null,
    dy.ptr,
    x.ptr,
    weight.ptr,
    rstd.ptr,
    residual?.ptr ?? null,
    T,
    H,
  );
}
