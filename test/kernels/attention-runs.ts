// Runs the attention kernels on packed samples whose rows lie apart, and holds them against the reference.

import { expect } from "bun:test";
import {
  type AttentionShape,
  attentionBackward,
  attentionForward,
  type Device,
  Tensor,
  type Turned,
} from "../../src/native/index.ts";
import { bordersOf, referenceBackward, referenceForward, tokensOf } from "./attention-reference.ts";
import { poisoned, upload } from "./harness.ts";
import { expectClose, Random, roundTo, tolerance } from "./numbers.ts";

export type Activation = "f32" | "bf16";
export const dtypes: readonly Activation[] = ["f32", "bf16"];

export const columnsOf = (shape: AttentionShape) => (shape.heads + 2 * shape.kvHeads) * shape.headDim;

/** Uploads [rows, columns] values as a window, `gap` columns of NaN apart. */
export function spread(
  device: Device,
  dtype: Activation,
  values: Float32Array,
  columns: number,
  gap: number,
): Tensor {
  const rows = columns === 0 ? 0 : values.length / columns;
  const wide = new Float32Array(rows * (columns + gap)).fill(Number.NaN);
  for (let r = 0; r < rows; r++)
    wide.set(values.subarray(r * columns, (r + 1) * columns), r * (columns + gap));
  return upload(device, dtype, [rows, columns + gap], wide).columns(0, columns);
}

/** The values of a window; what lies between its rows must still be NaN. */
export function gather(device: Device, tensor: Tensor): Float32Array {
  const ld = tensor.rowStride;
  const whole = device.readFloats(new Tensor(tensor.ptr, tensor.dtype, [tensor.rowCount, ld]));
  const result = new Float32Array(tensor.size);
  for (let r = 0; r < tensor.rowCount; r++) {
    result.set(whole.subarray(r * ld, r * ld + tensor.columnCount), r * tensor.columnCount);
    const gap = whole.subarray(r * ld + tensor.columnCount, (r + 1) * ld);
    expect(gap.every(Number.isNaN), `row ${r}: written past its end`).toBe(true);
  }
  return result;
}

export interface Pass {
  o: Float32Array;
  lse: Float32Array;
  dqkv: Float32Array;
}

/** Between the rows of qkv, o's gradient, o and dqkv, in elements: rows then start anywhere, or at 16 bytes each. */
export const unalignedGaps = [5, 3, 3, 7] as const;
export const alignedGaps = [8, 8, 8, 16] as const;

/** Forward, then backward from its results. */
export function runBoth(
  device: Device,
  dtype: Activation,
  shape: AttentionShape,
  lengths: readonly number[],
  qkv: Float32Array,
  dout: Float32Array,
  gaps: readonly [number, number, number, number] = unalignedGaps,
  turned: Turned | null = null,
): Pass {
  const T = tokensOf(lengths);
  const width = shape.heads * shape.headDim;
  const samples = { cuSeqlens: bordersOf(lengths) };
  const input = spread(device, dtype, qkv, columnsOf(shape), gaps[0]);
  const gradient = spread(device, dtype, dout, width, gaps[1]);
  const o = poisoned(device, dtype, [T, width + gaps[2]]).columns(0, width);
  const lse = poisoned(device, "f32", [shape.heads, T]);
  attentionForward(device, o, lse, input, samples, shape);
  const delta = poisoned(device, "f32", [shape.heads, T]);
  const dqkv = poisoned(device, dtype, [T, columnsOf(shape) + gaps[3]]).columns(0, columnsOf(shape));
  attentionBackward(device, dqkv, delta, gradient, o, input, lse, samples, shape, turned);
  return { o: gather(device, o), lse: device.readFloats(lse), dqkv: gather(device, dqkv) };
}

/** Columns [begin, end) of a matrix. */
export function part(matrix: ArrayLike<number>, columns: number, begin: number, end: number): number[] {
  return Array.from(matrix).filter((_, i) => i % columns >= begin && i % columns < end);
}

// p and ds become bf16 before the products they enter, and o is rounded before delta is formed from it.
export const gradientTolerance = { f32: 3e-6, bf16: 1e-2 } as const;

/** Forward and backward against the reference, twice: the second run gives the same bits. */
export function checkBoth(
  device: Device,
  dtype: Activation,
  shape: AttentionShape,
  lengths: readonly number[],
  gaps: readonly [number, number, number, number],
) {
  const { heads, kvHeads, headDim } = shape;
  const T = tokensOf(lengths);
  const random = new Random(T + headDim);
  const qkv = roundTo(dtype, random.floats(T * columnsOf(shape), 2));
  const dout = roundTo(dtype, random.floats(T * heads * headDim));
  const wanted = referenceForward({ shape, lengths, qkv });
  const got = runBoth(device, dtype, shape, lengths, qkv, dout, gaps);
  expectClose(got.o, wanted.o, tolerance[dtype], "o");
  expectClose(got.lse, wanted.lse, tolerance.f32, "lse");
  const gradient = referenceBackward({ shape, lengths, qkv }, dout);
  const columns = columnsOf(shape);
  const borders = [0, heads * headDim, (heads + kvHeads) * headDim, columns];
  // The softmax of a single score has no gradient: what rounding leaves in dq and dk is held against dv.
  const scale = shape.window === 1 ? gradient.reduce((most, value) => Math.max(most, Math.abs(value)), 0) : 0;
  for (const [i, name] of ["dq", "dk", "dv"].entries()) {
    const of = (values: ArrayLike<number>) => [...part(values, columns, borders[i]!, borders[i + 1]!), scale];
    expectClose(of(got.dqkv), of(gradient), gradientTolerance[dtype], name);
  }
  expect(runBoth(device, dtype, shape, lengths, qkv, dout, gaps)).toEqual(got);
}

export const nameOf = ({ heads, kvHeads, headDim }: AttentionShape, lengths: readonly number[]) =>
  `${heads}/${kvHeads} heads of ${headDim}, samples of ${lengths}`;
