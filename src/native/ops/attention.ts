// Causal attention over packed samples, and attention over a key/value cache. Formulas: kernels/neftune.h.

import { NeftuneError } from "../../errors.ts";
import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { activationCode, expectContiguous, expectMatrix, expectVector } from "./check.ts";
import { checkTables, type RopeTables } from "./rope.ts";
import type { SampleBorders } from "./sample-borders.ts";

export interface AttentionShape {
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Positions that a position sees, itself included; 0 or absent: all up to its own. */
  window?: number;
}

/** The q, k and v parts of a [T, (heads + 2·kvHeads)·headDim] buffer. */
function splitQkv(qkv: Tensor, shape: AttentionShape): { q: Tensor; k: Tensor; v: Tensor } {
  const [queries, keys] = [shape.heads * shape.headDim, shape.kvHeads * shape.headDim];
  return { q: qkv.columns(0, queries), k: qkv.columns(queries, keys), v: qkv.columns(queries + keys, keys) };
}

/** The number of samples. */
function checkSamples(op: string, { cuSeqlens }: SampleBorders, tokens: number): number {
  const sequences = cuSeqlens.length - 1;
  if (sequences < 0 || cuSeqlens[0] !== 0 || cuSeqlens[sequences] !== tokens) {
    throw new NeftuneError("shape", `${op}: cuSeqlens must go from 0 to ${tokens}, got [${cuSeqlens}]`);
  }
  return sequences;
}

/** What both directions take behind their tensors. */
function checkedSamples(op: string, samples: SampleBorders, tokens: number, shape: AttentionShape) {
  const sequences = checkSamples(op, samples, tokens);
  const { heads, kvHeads, headDim, window = 0 } = shape;
  return [samples.cuSeqlens, sequences, heads, kvHeads, headDim, window, 1 / Math.sqrt(headDim)] as const;
}

/** o[T, heads·headDim]; lse float32 [heads, T] for the backward pass, or null. */
export function attentionForward(
  device: Device,
  o: Tensor,
  lse: Tensor | null,
  qkv: Tensor,
  samples: SampleBorders,
  shape: AttentionShape,
): void {
  const op = "attention_forward";
  const T = qkv.rowCount;
  const { q, k, v } = splitQkv(qkv, shape);
  expectMatrix(op, "o", o, qkv.dtype, T, shape.heads * shape.headDim);
  if (lse !== null) expectVector(op, "lse", lse, "f32", shape.heads * T);
  const samplesAndShape = checkedSamples(op, samples, T, shape);
  device.call(
    "nt_attention_forward",
    activationCode(op, o),
    o.ptr,
    o.rowStride,
    lse?.ptr ?? null,
    q.ptr,
    k.ptr,
    v.ptr,
    qkv.rowStride,
    ...samplesAndShape,
  );
}

/** How q and k were turned before attention. */
export interface Turned {
  tables: RopeTables;
  positions: Tensor; // i32 [T]
}

/**
 * dqkv from dout; `delta` float32 [heads, T] is scratch. With `turned`, dq and dk are the gradients of what RoPE was
 * given.
 */
export function attentionBackward(
  device: Device,
  dqkv: Tensor,
  delta: Tensor,
  dout: Tensor,
  o: Tensor,
  qkv: Tensor,
  lse: Tensor,
  samples: SampleBorders,
  shape: AttentionShape,
  turned: Turned | null = null,
): void {
  const op = "attention_backward";
  const T = qkv.rowCount;
  const { q, k, v } = splitQkv(qkv, shape);
  const { q: dq, k: dk, v: dv } = splitQkv(dqkv, shape);
  expectMatrix(op, "dqkv", dqkv, qkv.dtype, T, qkv.columnCount);
  expectMatrix(op, "dout", dout, o.dtype, T, o.columnCount);
  if (dout.rowStride !== o.rowStride)
    throw new NeftuneError("shape", `${op}: dout and o must have the same row distance`);
  expectVector(op, "lse", lse, "f32", shape.heads * T);
  expectVector(op, "delta", delta, "f32", shape.heads * T);
  if (turned !== null) {
    checkTables(op, turned.tables, shape.headDim);
    expectVector(op, "positions", turned.positions, "i32", T);
  }
  const samplesAndShape = checkedSamples(op, samples, T, shape);
  device.call(
    "nt_attention_backward",
    activationCode(op, o),
    dq.ptr,
    dk.ptr,
    dv.ptr,
    dqkv.rowStride,
    delta.ptr,
    dout.ptr,
    o.ptr,
    o.rowStride,
    q.ptr,
    k.ptr,
    v.ptr,
    qkv.rowStride,
    lse.ptr,
    ...samplesAndShape,
    turned?.tables.cosine.ptr ?? null,
    turned?.tables.sine.ptr ?? null,
    turned?.positions.ptr ?? null,
  );
}

/** Keys and values of one layer: [slots, kvHeads, capacity, headDim] each. */
export interface KvCache {
  k: Tensor;
  v: Tensor;
  capacity: number;
}

/** What attention over a cache takes behind its sequences. */
function cacheAndShape({ capacity }: KvCache, { heads, kvHeads, headDim, window = 0 }: AttentionShape) {
  return [capacity, heads, kvHeads, headDim, window, 1 / Math.sqrt(headDim)] as const;
}

/** Where queries over a cache lie, and their results. */
function overCache(o: Tensor, q: Tensor, { k, v }: KvCache) {
  return [o.ptr, o.rowStride, q.ptr, q.rowStride, k.ptr, v.ptr] as const;
}

/** Writes each sample's keys and values into its slot, from position starts[s] on. */
export function kvAppend(
  device: Device,
  cache: KvCache,
  qkv: Tensor,
  samples: SampleBorders,
  slots: Int32Array,
  starts: Int32Array,
  shape: AttentionShape,
): void {
  const op = "kv_append";
  const { k, v } = splitQkv(qkv, shape);
  const sequences = checkSamples(op, samples, qkv.rowCount);
  for (const tensor of [cache.k, cache.v]) expectContiguous(op, "cache", tensor);
  device.call(
    "nt_kv_append",
    activationCode(op, qkv),
    cache.k.ptr,
    cache.v.ptr,
    k.ptr,
    v.ptr,
    qkv.rowStride,
    samples.cuSeqlens,
    slots,
    starts,
    sequences,
    cache.capacity,
    shape.kvHeads,
    shape.headDim,
  );
}

/**
 * The q part of qkv[T, …] over the caches that hold the same tokens' keys already: each of sample s's tokens attends up
 * to itself over its slot, whose first lengths[s] keys end with them.
 */
export function attentionCached(
  device: Device,
  o: Tensor,
  qkv: Tensor,
  cache: KvCache,
  samples: SampleBorders,
  slots: Int32Array,
  lengths: Int32Array,
  shape: AttentionShape,
): void {
  const op = "attention_cached";
  const { q } = splitQkv(qkv, shape);
  const sequences = checkSamples(op, samples, qkv.rowCount);
  expectMatrix(op, "o", o, qkv.dtype, qkv.rowCount, shape.heads * shape.headDim);
  device.call(
    "nt_attention_cached",
    activationCode(op, o),
    ...overCache(o, q, cache),
    samples.cuSeqlens,
    slots,
    lengths,
    sequences,
    ...cacheAndShape(cache, shape),
  );
}

/** One query a sequence (the q part of qkv[sequences, …]) over the first lengths[s] keys of its slot. */
export function attentionDecode(
  device: Device,
  o: Tensor,
  qkv: Tensor,
  cache: KvCache,
  slots: Int32Array,
  lengths: Int32Array,
  shape: AttentionShape,
): void {
  const op = "attention_decode";
  const { q } = splitQkv(qkv, shape);
  expectMatrix(op, "o", o, qkv.dtype, qkv.rowCount, shape.heads * shape.headDim);
  device.call(
    "nt_attention_decode",
    activationCode(op, o),
    ...overCache(o, q, cache),
    slots,
    lengths,
    qkv.rowCount,
    ...cacheAndShape(cache, shape),
  );
}
