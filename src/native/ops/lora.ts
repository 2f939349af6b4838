// LoRA's own products. Formulas: kernels/neftune.h.

import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { activationCode, expectContiguous, expectMatrix } from "./check.ts";
import { type ProductRows, rowsCode } from "./linear.ts";
import { int64Words } from "./words.ts";

/**
 * u[T,R] = scale · x[T,in]·A[R,in]ᵀ, for the stacked A of all projections that read x; also into `second` (null: not
 * wanted), which may lie in wider rows.
 */
export function loraForward(
  device: Device,
  u: Tensor,
  x: Tensor,
  a: Tensor,
  scale: number,
  second: Tensor | null = null,
  rows: ProductRows = "together",
): void {
  const op = "lora_forward";
  const [T, R, inputs] = [x.rowCount, u.columnCount, x.columnCount];
  expectMatrix(op, "u", u, x.dtype, T, R);
  expectMatrix(op, "A", a, x.dtype, R, inputs);
  expectContiguous(op, "u", u);
  if (second !== null) expectMatrix(op, "the second u", second, x.dtype, T, R);
  device.call(
    "nt_lora_forward",
    activationCode(op, x),
    u.ptr,
    second?.ptr ?? null,
    second?.rowStride ?? 0,
    x.ptr,
    x.rowStride,
    a.ptr,
    scale,
    T,
    R,
    inputs,
    rowsCode[rows],
  );
}

/** One projection of a stack in the backward pass. */
export interface LoraGradients {
  b: Tensor; // [out, r]
  db: Tensor | null; // f32 [out, r]; null: not wanted
  /** First of its `out` columns of dy. */
  row: number;
  /** First of its r columns of u and g. */
  column: number;
}

/** Five words a projection, as nt_lora_target has them. */
function targetWords(op: string, dy: Tensor, targets: readonly LoraGradients[], rank: number): BigInt64Array {
  const words: number[] = [];
  for (const { b, db, row, column } of targets) {
    expectMatrix(op, "B", b, dy.dtype, b.rowCount, rank);
    expectContiguous(op, "B", b);
    if (db !== null) {
      expectMatrix(op, "db", db, "f32", b.rowCount, rank);
      expectContiguous(op, "db", db);
    }
    words.push(b.ptr, db?.ptr ?? 0, row, b.rowCount, column);
  }
  return int64Words(words);
}

/**
 * For each projection of a stack, which has its own columns of dy[T,out], g[T,R] and u[T,R]: g = scale · dy·B; db += dyᵀ·u
 * (where none is wanted u may be null).
 */
export function loraBackward(
  device: Device,
  g: Tensor,
  dy: Tensor,
  u: Tensor | null,
  targets: readonly LoraGradients[],
  scale: number,
): void {
  const op = "lora_backward";
  const T = dy.rowCount;
  const rank = targets[0]?.b.columnCount ?? 0;
  expectMatrix(op, "g", g, dy.dtype, T, g.columnCount);
  if (u !== null) expectMatrix(op, "u", u, dy.dtype, T, u.columnCount);
  const words = targetWords(op, dy, targets, rank);
  device.call(
    "nt_lora_backward",
    activationCode(op, dy),
    g.ptr,
    g.rowStride,
    dy.ptr,
    dy.rowStride,
    u?.ptr ?? null,
    u?.rowStride ?? 0,
    words,
    targets.length,
    rank,
    scale,
    T,
  );
}

/** da[R,in] (float32) += g[T,R]ᵀ·x[T,in]. */
export function loraBackwardA(device: Device, da: Tensor, g: Tensor, x: Tensor): void {
  const op = "lora_backward_a";
  const [T, R, inputs] = [x.rowCount, g.columnCount, x.columnCount];
  expectMatrix(op, "g", g, x.dtype, T, R);
  expectMatrix(op, "da", da, "f32", R, inputs);
  device.call(
    "nt_lora_backward_a",
    activationCode(op, x),
    da.ptr,
    g.ptr,
    g.rowStride,
    x.ptr,
    x.rowStride,
    T,
    R,
    inputs,
  );
}
