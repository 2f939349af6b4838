// Generation: rows picked out of a batch, and the next token from the logits. Formulas: kernels/neftune.h.

import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { activationCode, expectMatrix, expectVector } from "./check.ts";

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
