// A micro-batch: samples laid end to end in flat arrays, as the kernels take them. Attention, positions and targets
// stay within one sample; `cuSeqlens` says where each begins.

import { NeftuneError } from "../errors.ts";
import { IGNORE, type Sample } from "./sample.ts";

export interface Batch {
  ids: Int32Array; // [T]
  positions: Int32Array; // [T], from 0 in every sample
  cuSeqlens: Int32Array; // [n + 1], row where each sample begins (its padding included), and T
  lengths: Int32Array; // [n], tokens of each sample without padding
  targetRows: Int32Array; // [targets], rows whose prediction counts, ascending
  targets: Int32Array; // [targets], the token each of them has to predict
  tokens: number; // sum of lengths
}

export type BatchLayout = { packing: true } | { packing: false; padId: number };

/**
 * Lays samples out, packed end to end or each padded at its end to the longest of them. Row t of a sample predicts
 * its label t + 1; the first token of a sample is nobody's target and no padding is ever one.
 */
export function makeBatch(samples: readonly Sample[], layout: BatchLayout): Batch {
  if (samples.length === 0) throw new NeftuneError("batch", "a batch needs at least one sample, got none");
  let longest = 0;
  let tokens = 0;
  let targetCount = 0;
  for (const { ids, labels } of samples) {
    if (ids.length === 0 || labels.length !== ids.length) {
      const got = `${ids.length} ids and ${labels.length} labels`;
      throw new NeftuneError("batch", `a sample needs as many labels as ids and at least one, got ${got}`);
    }
    longest = Math.max(longest, ids.length);
    tokens += ids.length;
    for (let i = 1; i < labels.length; i++) if (labels[i] !== IGNORE) targetCount++;
  }

  const rows = layout.packing ? tokens : longest * samples.length;
  const batch: Batch = {
    ids: new Int32Array(rows),
    positions: new Int32Array(rows),
    cuSeqlens: new Int32Array(samples.length + 1),
    lengths: new Int32Array(samples.length),
    targetRows: new Int32Array(targetCount),
    targets: new Int32Array(targetCount),
    tokens,
  };
  let begin = 0;
  let target = 0;
  for (let n = 0; n < samples.length; n++) {
    const { ids, labels } = samples[n]!;
    const end = begin + (layout.packing ? ids.length : longest);
    batch.ids.set(ids, begin);
    if (!layout.packing) batch.ids.fill(layout.padId, begin + ids.length, end);
    for (let row = begin; row < end; row++) batch.positions[row] = row - begin;
    for (let i = 1; i < ids.length; i++) {
      if (labels[i] === IGNORE) continue;
      batch.targetRows[target] = begin + i - 1;
      batch.targets[target++] = labels[i]!;
    }
    batch.lengths[n] = ids.length;
    batch.cuSeqlens[n] = begin;
    begin = end;
  }
  batch.cuSeqlens[samples.length] = begin;
  return batch;
}
