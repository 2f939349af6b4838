// Weights, linear layers, LoRA products and the fused linear + cross-entropy. Formulas: kernels/neftune.h.

import { NeftuneError } from "../../errors.ts";
import type { Device } from "../device.ts";
import { dtypeCode, type Tensor } from "../tensor.ts";
import {
  type ActivationDType,
  activationCode,
  expectContiguous,
  expectMatrix,
  expectVector,
} from "./check.ts";
import { type Nf4, nf4Words } from "./nf4.ts";

/**
 * A linear layer's weight [out, in] on the device, in the activations' dtype or in NF4. Borrows its memory; destroy()
 * before that goes.
 */
export class Weight {
  readonly out: number;
  readonly in: number;
  /** What activations have to be. */
  readonly dtype: ActivationDType;
  readonly handle: number;
  readonly #device: Device;

  private constructor(device: Device, dtype: ActivationDType, out: number, inputs: number, handle: number) {
    this.out = out;
    this.in = inputs;
    this.dtype = dtype;
    this.handle = handle;
    this.#device = device;
  }

  /** Of a dense tensor [out, in]. */
  static dense(device: Device, data: Tensor): Weight {
    const op = "weight_create";
    expectContiguous(op, "data", data);
    const [out, inputs] = [data.rowCount, data.columnCount];
    const handle = new BigUint64Array(1);
    device.call(
      "nt_weight_create",
      ...[activationCode(op, data), out, inputs, data.ptr, handle],
    );
    return new Weight(device, data.dtype as ActivationDType, out, inputs, Number(handle[0]));
  }

  /** Of an NF4 tensor [out, in]. `scratch`: at least out · in values of the activations' dtype, shared by all weights. */
  static nf4(device: Device, data: Nf4, scratch: Tensor): Weight {
    const op = "weight_create_nf4";
    const [out = 0, inputs = 0] = data.shape;
    const dtype = activationCode(op, scratch);
    if (data.shape.length !== 2 || scratch.size < out * inputs)
      throw new NeftuneError("shape", `${op}: [${data.shape}] does not fit into scratch ${scratch}`);
    const handle = new BigUint64Array(1);
    device.call("nt_weight_create_nf4", dtype, out, inputs, nf4Words(data), scratch.ptr, handle);
    return new Weight(device, scratch.dtype as ActivationDType, out, inputs, Number(handle[0]));
  }

  destroy(): void {
    this.#device.call("nt_weight_destroy", this.handle);
  }
}

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

/** Four words a block, as nt_lora_block has them. */
function blockWords(op: string, x: Tensor, lora: LowRankBlocks, rank: number): BigInt64Array {
  expectMatrix(op, "u", lora.u, x.dtype, x.rowCount, lora.u.columnCount);
  const words = new BigInt64Array(4 * lora.blocks.length);
  for (const [i, { b, row, column }] of lora.blocks.entries()) {
    expectMatrix(op, "B", b, x.dtype, b.rowCount, rank);
    expectContiguous(op, "B", b);
    words.set([BigInt(b.ptr), BigInt(row), BigInt(b.rowCount), BigInt(column)], 4 * i);
  }
  return words;
}

/** y[T,out] = x[T,in]·Wᵀ + bias[out] + u·Bᵀ. y may be float32 where x is bf16. */
export function linearForward(
  device: Device,
  y: Tensor,
  x: Tensor,
  weight: Weight,
  bias: Tensor | null,
  lora: LowRankBlocks | null = null,
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

/** Bytes of workspace that linearCrossEntropy runs well with. */
export function crossEntropyWorkspace(
  device: Device,
  dtype: ActivationDType,
  rows: number,
  hidden: number,
  vocab: number,
): number {
  const bytes = new BigInt64Array(1);
  device.call("nt_linear_cross_entropy_workspace", dtypeCode[dtype], rows, hidden, vocab, bytes);
  return Number(bytes[0]);
}

/** Where gradients of the loss go; absent: evaluation. */
export interface CrossEntropyGradients {
  /** [T,H], every row written. */
  dx: Tensor | null;
  /** float32 [V,H], added to. */
  dweight: Tensor | null;
  /** 1 / (target tokens of the whole step). */
  scale: number;
}

/** losses[i] = cross-entropy of row rows[i] of x[T,H] through the weight [V,H] against targets[i]. */
export function linearCrossEntropy(
  device: Device,
  losses: Tensor,
  x: Tensor,
  weight: Weight,
  rows: Int32Array,
  targets: Int32Array,
  workspace: Tensor,
  gradients: CrossEntropyGradients | null = null,
): void {
  const op = "linear_cross_entropy";
  const n = rows.length;
  if (targets.length !== n) throw new NeftuneError("shape", `${op}: ${n} rows but ${targets.length} targets`);
  expectVector(op, "losses", losses, "f32", n);
  expectMatrix(op, "x", x, weight.dtype, x.rowCount, weight.in);
  expectContiguous(op, "x", x);
  const { dx = null, dweight = null, scale = 0 } = gradients ?? {};
  if (dx !== null) {
    expectMatrix(op, "dx", dx, x.dtype, x.rowCount, weight.in);
    expectContiguous(op, "dx", dx);
  }
  if (dweight !== null) expectMatrix(op, "dweight", dweight, "f32", weight.out, weight.in);
  device.call(
    "nt_linear_cross_entropy",
    activationCode(op, x),
    losses.ptr,
    dx?.ptr ?? null,
    dweight?.ptr ?? null,
    x.ptr,
    weight.handle,
    rows,
    targets,
    n,
    x.rowCount,
    scale,
    workspace.ptr,
    workspace.bytes,
  );
}
