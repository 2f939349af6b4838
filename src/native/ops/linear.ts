// Linear layers with an optional low-rank term. Formulas: kernels/neftune.h.

import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { activationCode, expectContiguous, expectMatrix, expectVector } from "./check.ts";
import type { Weight } from "./weight.ts";
import { int64Words } from "./words.ts";

/** The low-rank term of a backward product: g[T,r]·A[r,in]. */
export interface LowRank {
  /** g [T, r]. */
  left: Tensor;
  /** A [r, in]. */
  right: Tensor;
}

/** One projection's B in a weight of several: it adds u's columns times Bᵀ to the weight's rows from `row` on. */
export interface LoraBlock {
  b: Tensor; // [rows, r]
  row: number;
  /** First of its r columns of u. */
  column: number;
}

/** The low-rank term of a forward product: u[T,R] times a block-diagonal B, blocks ascending by row. */
export interface LowRankBlocks {
  u: Tensor; // [T, R]
  blocks: readonly LoraBlock[];
}

/**
 * How the rows of x may be taken together: as T of them are fastest; or so that a row of y has the same bits whatever rows
 * are beside it, in a way made for few rows ("each") or for many ("tiled").
 */
export type ProductRows = "together" | "each" | "tiled";
export const rowsCode: Record<ProductRows, number> = { together: 0, each: 1, tiled: 2 };

/** Four words a block, as nt_lora_block has them. */
function blockWords(op: string, x: Tensor, lora: LowRankBlocks, rank: number): BigInt64Array {
  expectMatrix(op, "u", lora.u, x.dtype, x.rowCount, lora.u.columnCount);
  const words: number[] = [];
  for (const { b, row, column } of lora.blocks) {
    expectMatrix(op, "B", b, x.dtype, b.rowCount, rank);
    expectContiguous(op, "B", b);
    words.push(b.ptr, row, b.rowCount, column);
  }
  return int64Words(words);
}

/** y[T,out] = x[T,in]·Wᵀ + bias[out] + u·Bᵀ. y may be float32 where x is bf16. */
export function linearForward(
  device: Device,
  y: Tensor,
  x: Tensor,
  weight: Weight,
  bias: Tensor | null,
  lora: LowRankBlocks | null = null,
  rows: ProductRows = "together",
): void {
  const op = "linear_forward";
  const T = x.rowCount;
  expectMatrix(op, "x", x, weight.dtype, T, weight.in);
  expectMatrix(op, "y", y, y.dtype === "f32" ? "f32" : x.dtype, T, weight.out);
  if (bias !== null) expectVector(op, "bias", bias, "f32", weight.out);
  const rank = lora?.blocks[0]?.b.columnCount ?? 0;
  const blocks = lora === null ? null : blockWords(op, x, lora, rank);
  device.call(
    "nt_linear_forward",
    activationCode(op, x),
    y.ptr,
    activationCode(op, y),
    y.rowStride,
    x.ptr,
    x.rowStride,
    weight.handle,
    bias?.ptr ?? null,
    lora?.u.ptr ?? null,
    lora?.u.rowStride ?? 0,
    blocks,
    lora?.blocks.length ?? 0,
    rank,
    T,
    rowsCode[rows],
  );
}

/** dx[T,in] = dy[T,out]·W + g[T,r]·A[r,in], added to dx with accumulate. */
export function linearBackwardInput(
  device: Device,
  dx: Tensor,
  dy: Tensor,
  weight: Weight,
  lora: LowRank | null = null,
  accumulate = false,
): void {
  const op = "linear_backward_input";
  const T = dy.rowCount;
  expectMatrix(op, "dy", dy, weight.dtype, T, weight.out);
  expectMatrix(op, "dx", dx, dy.dtype, T, weight.in);
  const rank = lora?.left.columnCount ?? 0;
  if (lora !== null) {
    expectMatrix(op, "g", lora.left, dy.dtype, T, rank);
    expectMatrix(op, "A", lora.right, dy.dtype, rank, weight.in);
    expectContiguous(op, "A", lora.right);
  }
  device.call(
    "nt_linear_backward_input",
    activationCode(op, dy),
    dx.ptr,
    dx.rowStride,
    dy.ptr,
    dy.rowStride,
    weight.handle,
    lora?.left.ptr ?? null,
    lora?.left.rowStride ?? 0,
    lora?.right.ptr ?? null,
    rank,
    accumulate ? 1 : 0,
    T,
  );
}

/** dweight[out,in] (float32) += dy[T,out]ᵀ·x[T,in]; dbias[out] += column sums of dy. */
export function linearBackwardWeight(
  device: Device,
  dweight: Tensor,
  dbias: Tensor | null,
  dy: Tensor,
  x: Tensor,
): void {
  const op = "linear_backward_weight";
  const [T, out, inputs] = [dy.rowCount, dy.columnCount, x.columnCount];
  expectMatrix(op, "x", x, dy.dtype, T, inputs);
  expectMatrix(op, "dweight", dweight, "f32", out, inputs);
  if (dbias !== null) expectVector(op, "dbias", dbias, "f32", out);
  const code = activationCode(op, dy);
  device.call(
    "nt_linear_backward_weight",
    code,
    dweight.ptr,
    dbias?.ptr ?? null,
    dy.ptr,
    dy.rowStride,
    x.ptr,
    x.rowStride,
    T,
    out,
    inputs,
  );
}
