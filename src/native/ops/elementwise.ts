// Embedding with NEFTune noise, norms, SwiGLU and dropout. Formulas: kernels/neftune.h.

import { NeftuneError } from "../../errors.ts";
import type { Device } from "../device.ts";
import { dtypeCode, type Tensor } from "../tensor.ts";
import { activationCode, expectContiguous, expectMatrix, expectVector } from "./check.ts";

/** Where the samples of a micro-batch, laid end to end, begin and end. */
export interface SampleBorders {
  /** Int32 [samples + 1]: where each sample begins; the last is the number of tokens. */
  cuSeqlens: Int32Array;
}

/** NEFTune's noise for one micro-batch (arXiv 2310.05914). */
export interface EmbeddingNoise {
  kind: "uniform" | "bernoulli" | "gaussian";
  seed: number;
  /** alpha / sqrt(L · d) for each sample, rounded to float32. */
  scales: Float32Array;
  /** How many samples the run fed to training before each. */
  draws: BigInt64Array;
  /** float32 [H], or absent: what each column's scale is multiplied by. */
  learnedScale?: Tensor;
}

const noiseCode = { none: 0, uniform: 1, bernoulli: 2, gaussian: 3 } as const;

function checkNoise(op: string, noise: EmbeddingNoise, sequences: number): void {
  if (noise.scales.length !== sequences || noise.draws.length !== sequences) {
    throw new NeftuneError("shape", `${op}: ${sequences} samples need as many scales and draws`);
  }
}

/** y[T,H] = table[ids[T]] + noise. */
export function embeddingForward(
  device: Device,
  y: Tensor,
  table: Tensor, // [V, H]
  ids: Tensor, // int32 [T]
  samples: SampleBorders,
  noise: EmbeddingNoise | null,
): void {
  const op = "embedding_forward";
  const [T, H] = [y.rowCount, y.columnCount];
  expectVector(op, "ids", ids, "i32", T);
  expectContiguous(op, "y", y);
  if (table.columnCount !== H || table.dtype === "i32")
    throw new NeftuneError("shape", `${op}: table must be [V,${H}], got ${table}`);
  const sequences = samples.cuSeqlens.length - 1;
  if (noise !== null) checkNoise(op, noise, sequences);
  if (noise?.learnedScale) expectVector(op, "learnedScale", noise.learnedScale, "f32", H);
  device.call(
    "nt_embedding_forward",
    activationCode(op, y),
    y.ptr,
    table.ptr,
    dtypeCode[table.dtype],
    ids.ptr,
    T,
    H,
    table.rowCount,
    noiseCode[noise?.kind ?? "none"],
    noise?.seed ?? 0,
    samples.cuSeqlens,
    noise?.scales ?? null,
    noise?.draws ?? null,
    sequences,
    noise?.learnedScale?.ptr ?? null,
  );
}

/** dlearnedScale[H] (float32) += Σ over tokens of scale · n ∘ dy[T,H], with the noise of the forward pass. */
export function learnedScaleBackward(
  device: Device,
  dlearnedScale: Tensor,
  dy: Tensor,
  samples: SampleBorders,
  noise: EmbeddingNoise,
): void {
  const op = "learned_scale_backward";
  const [T, H] = [dy.rowCount, dy.columnCount];
  expectVector(op, "dlearnedScale", dlearnedScale, "f32", H);
  expectContiguous(op, "dy", dy);
  const sequences = samples.cuSeqlens.length - 1;
  checkNoise(op, noise, sequences);
  device.call(
    "nt_learned_scale_backward",
    activationCode(op, dy),
    dlearnedScale.ptr,
    dy.ptr,
    T,
    H,
    noiseCode[noise.kind],
    noise.seed,
    samples.cuSeqlens,
    noise.scales,
    noise.draws,
    sequences,
  );
}

/** dtable[V,H] (float32) += dy[T,H] at the rows ids[T]. */
export function embeddingBackward(device: Device, dtable: Tensor, dy: Tensor, ids: Tensor): void {
  const op = "embedding_backward";
  const [T, H] = [dy.rowCount, dy.columnCount];
  expectVector(op, "ids", ids, "i32", T);
  expectMatrix(op, "dtable", dtable, "f32", dtable.rowCount, H);
  expectContiguous(op, "dy", dy);
  device.call(
    "nt_embedding_backward",
    activationCode(op, dy),
    dtable.ptr,
    dy.ptr,
    ids.ptr,
    T,
    H,
    dtable.rowCount,
  );
}

/** sum = x + delta; y = sum · rstd · weight. All [T,H] but weight [H] and rstd [T]. Without delta, sum is not written. */
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
  for (const tensor of [x, y]) expectContiguous(op, "x and y", tensor);
  if (residual !== null) {
    expectVector(op, "delta", residual.delta, x.dtype, T * H);
    expectVector(op, "sum", residual.sum, x.dtype, T * H);
  }
  const [sum, delta] = [residual?.sum.ptr ?? null, residual?.delta.ptr ?? null];
  device.call(
    "nt_rmsnorm_forward",
    activationCode(op, x),
    y.ptr,
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

/** dx[T,H] = the norm's input gradient + residual (the gradient that comes past it); dweight[H] += (null: frozen). */
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
    expectContiguous(op, name, tensor);
  }
  if (residual !== null) expectVector(op, "residual", residual, x.dtype, T * H);
  if (dweight !== null) expectVector(op, "dweight", dweight, "f32", H);
  expectVector(op, "weight", weight, "f32", H);
  expectVector(op, "rstd", rstd, "f32", T);
  device.call(
    "nt_rmsnorm_backward",
    activationCode(op, x),
    dx.ptr,
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

/** LoRA dropout of one module. */
export interface Dropout {
  p: number;
  seed: number;
  /** Which module of the model: each has a mask of its own. */
  module: number;
  draws: BigInt64Array;
}

/** y[T,C] = mask ∘ x / (1 − p), or y += with accumulate. y may be x. */
export function dropout(
  device: Device,
  y: Tensor,
  x: Tensor,
  samples: SampleBorders,
  options: Dropout,
  accumulate = false,
): void {
  const op = "dropout";
  expectMatrix(op, "y", y, x.dtype, x.rowCount, x.columnCount);
  for (const tensor of [x, y]) expectContiguous(op, "x and y", tensor);
  device.call(
    "nt_dropout",
    activationCode(op, x),
    y.ptr,
    x.ptr,
    x.rowCount,
    x.columnCount,
    options.p,
    options.seed,
    options.module,
    accumulate ? 1 : 0,
    samples.cuSeqlens,
    options.draws,
    samples.cuSeqlens.length - 1,
  );
}
