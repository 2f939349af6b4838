// The embedding with NEFTune's noise, and what its gradient goes to. Formulas: kernels/neftune.h.

import { NeftuneError } from "../../errors.ts";
import type { Device } from "../device.ts";
import { dtypeCode, type Tensor } from "../tensor.ts";
import { activationCode, expectContiguous, expectMatrix, expectVector } from "./check.ts";
import type { SampleBorders } from "./sample-borders.ts";

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
  const sequences = samples.cuSeqlens.length - 1;
  checkNoise(op, noise, sequences);
  device.call(
    "nt_learned_scale_backward",
    activationCode(op, dy),
    dlearnedScale.ptr,
    dy.ptr,
    dy.rowStride,
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
