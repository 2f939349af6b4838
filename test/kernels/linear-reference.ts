// What tests of linear layers compare with, and where their results lie.

import { expect } from "bun:test";
import { type Device, type LowRankBlocks, Tensor } from "../../src/native/index.ts";
import { poisoned, upload } from "./harness.ts";
import { dense, plus, product, transpose } from "./products.ts";

/** x·Wᵀ + u·Bᵀ + bias, in float64. */
export function linearReference(
  { T, inputs, out, rank }: { T: number; inputs: number; out: number; rank: number },
  x: Float32Array,
  w: Float32Array,
  bias: Float32Array,
  u: Float32Array,
  b: Float32Array,
): Float64Array {
  const biases = Float64Array.from({ length: T * out }, (_, i) => bias[i % out]!);
  return plus(
    product(dense(x, T, inputs), transpose(dense(w, out, inputs))),
    product(dense(u, T, rank), transpose(dense(b, out, rank)), biases),
  );
}

/** u and B of one projection; null at rank 0. */
export function lowRankOf(
  device: Device,
  dtype: "f32" | "bf16",
  u: Float32Array,
  b: Float32Array,
  T: number,
  out: number,
  rank: number,
): LowRankBlocks | null {
  if (rank === 0) return null;
  const blocks = [{ b: upload(device, dtype, [out, rank], b), row: 0, column: 0 }];
  return { u: upload(device, dtype, [T, rank], u), blocks };
}

/** A [rows, columns] window, `gap` elements apart, in a larger buffer full of NaN. */
export function window(
  device: Device,
  dtype: "f32" | "bf16",
  rows: number,
  columns: number,
  gap: number,
): Tensor {
  return poisoned(device, dtype, [rows, columns + gap]).columns(0, columns);
}

export function readWindow(device: Device, tensor: Tensor): Float32Array {
  const ld = tensor.rowStride;
  const whole = device.readFloats(new Tensor(tensor.ptr, tensor.dtype, [tensor.rowCount, ld]));
  const result = new Float32Array(tensor.size);
  for (let i = 0; i < tensor.rowCount; i++) {
    for (let j = 0; j < ld; j++) {
      const value = whole[i * ld + j]!;
      if (j < tensor.columnCount) result[i * tensor.columnCount + j] = value;
      else expect(value, `row ${i}: written past its end`).toBeNaN();
    }
  }
  return result;
}
