// Generation: rows picked out of a batch, and the next token from the logits. Formulas: kernels/neftune.h.

import { NeftuneError } from "../../errors.ts";
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
  /** Of the likeliest token's probability; 0 or absent: off. */
  minP?: number;
  seed: number;
}

/** How one row becomes a token: its options, and what tells its random draw from others. */
export interface RowSampling {
  options: SamplingOptions;
  draw: number;
  /** Tokens that the row's sequence has already. */
  step: number;
}

/** Bytes of a nt_sampling. */
const ROW_BYTES = 48;

function rowWords(rows: readonly RowSampling[]): Uint8Array {
  const words = new DataView(new ArrayBuffer(rows.length * ROW_BYTES));
  for (const [i, { options, draw, step }] of rows.entries()) {
    const at = i * ROW_BYTES;
    const floats = [options.temperature, options.topP, options.minP ?? 0, options.repetitionPenalty];
    for (const [j, value] of floats.entries()) words.setFloat32(at + 4 * j, value, true);
    const integers = [options.topK, options.seed, draw, step];
    for (const [j, value] of integers.entries()) words.setBigInt64(at + 16 + 8 * j, BigInt(value), true);
  }
  return new Uint8Array(words.buffer);
}

/**
 * One token a row of logits[B,V] (float32, changed in place), each by its own options. `history` are the ids seen so far
 * by rows with a repetition penalty, row by row.
 */
export function sample(
  device: Device,
  tokens: Tensor,
  logits: Tensor,
  rows: readonly RowSampling[],
  history: { ids: Int32Array; offsets: BigInt64Array },
): void {
  const [B, V] = [logits.rowCount, logits.columnCount];
  if (rows.length !== B)
    throw new NeftuneError("shape", `sample: ${rows.length} rows of options for ${logits}`);
  expectVector("sample", "tokens", tokens, "i32", B);
  expectVector("sample", "logits", logits, "f32", B * V);
  device.call("nt_sample", tokens.ptr, logits.ptr, B, V, rowWords(rows), history.ids, history.offsets);
}
