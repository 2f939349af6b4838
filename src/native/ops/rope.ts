// Rotary position embedding, alone and behind a norm of each head. Formulas: kernels/neftune.h.

import { NeftuneError } from "../../errors.ts";
import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { activationCode, expectMatrix, expectVector } from "./check.ts";

/** cos and sin of position · frequency, float32 [positions, headDim / 2]. */
export interface RopeTables {
  cosine: Tensor;
  sine: Tensor;
}

/** Throws unless both tables are float32 [positions, headDim / 2]. */
export function checkTables(op: string, tables: RopeTables, headDim: number): void {
  for (const [name, table] of Object.entries(tables) as [string, Tensor][])
    expectMatrix(op, name, table, "f32", tables.cosine.rowCount, headDim / 2);
}

/** How many heads x[T, heads · headDim] has; checks what turns them too. */
function headsOf(op: string, x: Tensor, tables: RopeTables, positions: Tensor, headDim: number): number {
  const heads = x.columnCount / headDim;
  if (!Number.isInteger(heads))
    throw new NeftuneError("shape", `${op}: ${x} is not whole heads of ${headDim}`);
  expectVector(op, "positions", positions, "i32", x.rowCount);
  checkTables(op, tables, headDim);
  return heads;
}

/** Rotates `heads` heads of x[T, heads · headDim] in place by their positions; `inverse` turns back. */
export function rope(
  device: Device,
  x: Tensor,
  tables: RopeTables,
  positions: Tensor,
  headDim: number,
  inverse = false,
): void {
  const op = "rope";
  const heads = headsOf(op, x, tables, positions, headDim);
  device.call(
    "nt_rope",
    activationCode(op, x),
    x.ptr,
    x.rowStride,
    tables.cosine.ptr,
    tables.sine.ptr,
    positions.ptr,
    x.rowCount,
    heads,
    headDim,
    inverse ? 1 : 0,
  );
}

/** RMSNorm of each head, then RoPE. */
export interface HeadNorm {
  weight: Tensor; // f32 [headDim]
  eps: number;
}

/** Norms and rotates the heads of x[T, heads · headDim] in place; `kept` (null: not wanted) receives x as it was. */
export function rmsnormRopeForward(
  device: Device,
  x: Tensor,
  kept: Tensor | null,
  norm: HeadNorm,
  tables: RopeTables,
  positions: Tensor,
): void {
  const op = "rmsnorm_rope_forward";
  const headDim = norm.weight.size;
  const heads = headsOf(op, x, tables, positions, headDim);
  if (kept !== null) expectMatrix(op, "kept", kept, x.dtype, x.rowCount, x.columnCount);
  device.call(
    "nt_rmsnorm_rope_forward",
    activationCode(op, x),
    x.ptr,
    x.rowStride,
    kept?.ptr ?? null,
    kept?.rowStride ?? 0,
    norm.weight.ptr,
    tables.cosine.ptr,
    tables.sine.ptr,
    positions.ptr,
    x.rowCount,
    heads,
    headDim,
    norm.eps,
  );
}

/** dx[T, heads · headDim], the gradient of forward's result, becomes that of its input x; dweight[headDim] += (null: frozen). */
export function rmsnormRopeBackward(
  device: Device,
  dx: Tensor,
  dweight: Tensor | null,
  x: Tensor,
  norm: HeadNorm,
  tables: RopeTables,
  positions: Tensor,
): void {
  const op = "rmsnorm_rope_backward";
  const headDim = norm.weight.size;
  const heads = headsOf(op, dx, tables, positions, headDim);
  expectMatrix(op, "x", x, dx.dtype, dx.rowCount, dx.columnCount);
  if (dweight !== null) expectVector(op, "dweight", dweight, "f32", headDim);
  device.call(
    "nt_rmsnorm_rope_backward",
    activationCode(op, dx),
    dx.ptr,
    dx.rowStride,
    dweight?.ptr ?? null,
    x.ptr,
    x.rowStride,
    norm.weight.ptr,
    tables.cosine.ptr,
    tables.sine.ptr,
    positions.ptr,
    dx.rowCount,
    heads,
    headDim,
    norm.eps,
  );
}
