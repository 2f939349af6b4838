// Gradient norm, AdamW, random numbers, row gathering and sampling. Formulas: kernels/neftune.h.

import type { Device } from "../device.ts";
import { dtypeCode, type Tensor } from "../tensor.ts";
import { activationCode, expectMatrix, expectVector } from "./check.ts";

/** result[0] = ‖gradients‖₂, result[1] = the factor that clips it to maxNorm (1 where maxNorm ≤ 0). */
export function gradientNorm(device: Device, result: Tensor, gradients: Tensor, maxNorm: number): void {
  expectVector("gradient_norm", "result", result, "f32", 2);
  expectVector("gradient_norm", "gradients", gradients, "f32", gradients.size);
  device.call("nt_gradient_norm", result.ptr, gradients.ptr, gradients.size, maxNorm);
}

export interface AdamWOptions {
  learningRate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  /** Counted from 1. */
  step: number;
}

/** AdamW (arXiv 1711.05101) on flat float32 tensors; `copy` (bf16 or null) receives the rounded parameters. */
export function adamw(
  device: Device,
  parameters: Tensor,
  copy: Tensor | null,
  gradients: Tensor,
  m: Tensor,
  v: Tensor,
  options: AdamWOptions,
  gradientScale: Tensor | null,
): void {
  const n = parameters.size;
  for (const [name, tensor] of [
    ["parameters", parameters],
    ["gradients", gradients],
    ["m", m],
    ["v", v],
  ] as const) {
    expectVector("adamw", name, tensor, "f32", n);
  }
  if (copy !== null) expectVector("adamw", "copy", copy, "bf16", n);
  device.call(
    "nt_adamw",
    parameters.ptr,
    copy?.ptr ?? null,
    gradients.ptr,
    m.ptr,
    v.ptr,
    n,
    options.learningRate,
    options.beta1,
    options.beta2,
    options.epsilon,
    options.weightDecay,
    options.step,
    gradientScale?.ptr ?? null,
  );
}

/** What random numbers are for: the Philox stream (kernels/philox.h). */
export const streams = { noise: 0, dropout: 1, shuffle: 2, init: 3, sample: 4 } as const;

/** tensor = scale · U(−1, 1) or N(0, 1); `draw` tells tensors of one seed apart. */
export function random(
  device: Device,
  tensor: Tensor,
  kind: "uniform" | "normal",
  scale: number,
  seed: number,
  draw: number,
): void {
  const code = activationCode("random", tensor);
  device.call(
    "nt_random",
    code,
    tensor.ptr,
    tensor.size,
    kind === "normal" ? 1 : 0,
    scale,
    seed,
    draw,
    streams.init,
  );
}

/** destination = source, converted, rounded to nearest even. */
export function cast(device: Device, destination: Tensor, source: Tensor): void {
  expectVector("cast", "destination", destination, destination.dtype, source.size);
  if (source.dtype === "i32") throw new TypeError("cast: i32 is not a float type");
  device.call(
    "nt_cast",
    destination.ptr,
    activationCode("cast", destination),
    source.ptr,
    dtypeCode[source.dtype],
    source.size,
  );
}

/** y[n,C] = x[rows[i]]. */
export function gatherRows(device: Device, y: Tensor, x: Tensor, rows: Int32Array): void {
  expectMatrix("gather_rows", "y", y, x.dtype, rows.length, x.columnCount);
  device.call(
    "nt_gather_rows",
    activationCode("gather_rows", x),
    y.ptr,
    x.ptr,
    rows,
    rows.length,
    x.columnCount,
  );
}

export interface SamplingOptions {
  /** 0: greedy. */
  temperature: number;
  /** 0: off. */
  topK: number;
  /** 1: off. */
  topP: number;
  /** 1: off. */
  repetitionPenalty: number;
  seed: number;
}

/** One token a row of logits[B,V] (float32, changed in place). `history` are the ids seen so far, row by row. */
export function sample(
  device: Device,
  tokens: Tensor,
  logits: Tensor,
  options: SamplingOptions,
  history: { ids: Int32Array; offsets: BigInt64Array },
  draws: BigInt64Array,
  step: number,
): void {
  const [B, V] = [logits.rowCount, logits.columnCount];
  expectVector("sample", "tokens", tokens, "i32", B);
  expectVector("sample", "logits", logits, "f32", B * V);
  device.call(
    "nt_sample",
    tokens.ptr,
    logits.ptr,
    B,
    V,
    options.temperature,
    options.topK,
    options.topP,
    options.repetitionPenalty,
    history.ids,
    history.offsets,
    options.seed,
    draws,
    step,
  );
}
