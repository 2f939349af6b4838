// One product whose every value is known: whether the library that makes products works on this device.

import type { Device } from "./device.ts";
import { linearForward } from "./ops/linear.ts";
import { Weight } from "./ops/weight.ts";

const SIZE = 512;

/** Small whole numbers: sums of their products are exact in any order. No two rows or columns are alike. */
const matrix = (step: number) =>
  Float32Array.from({ length: SIZE * SIZE }, (_, i) => {
    const [row, column] = [Math.floor(i / SIZE), i % SIZE];
    return ((row * step + column * 5 + ((row * column) >> 3)) % 9) - 4;
  });

export interface ProductCheck {
  /** m, n and k. */
  size: number;
  isRight: boolean;
  /** Whether a slow kernel of our own had to make it: cuBLASLt has no algorithm for it here. */
  isPlain: boolean;
}

/** y = x·Wᵀ with x and W bf16 [512, 512] and y float32, against sums of whole numbers. */
export function checkProduct(device: Device): ProductCheck {
  const [xs, ws] = [matrix(7), matrix(11)];
  const tensors = [
    device.allocate("bf16", [SIZE, SIZE]),
    device.allocate("bf16", [SIZE, SIZE]),
    device.allocate("f32", [SIZE, SIZE]),
  ] as const;
  const [x, w, y] = tensors;
  const weight = Weight.dense(device, w);
  try {
    const before = device.bigPlainProducts();
    device.writeFloats(x, xs);
    device.writeFloats(w, ws);
    linearForward(device, y, x, weight, null);
    return {
      size: SIZE,
      isRight: isProduct(device.readFloats(y), xs, ws),
      isPlain: device.bigPlainProducts() > before,
    };
  } finally {
    weight.destroy();
    for (const tensor of tensors) device.free(tensor.ptr);
  }
}

/** Whether y = x·Wᵀ, by y·r = x·(Wᵀ·r) for a vector r that lets no two errors of a row cancel out easily. */
function isProduct(y: Float32Array, x: Float32Array, w: Float32Array): boolean {
  const r = Float64Array.from({ length: SIZE }, (_, j) => 1 + ((j * 40_503) % 65_521));
  const times = (matrix: Float32Array, vector: Float64Array, at: (i: number, k: number) => number) =>
    Float64Array.from({ length: SIZE }, (_, i) => {
      let sum = 0;
      for (let k = 0; k < SIZE; k++) sum += matrix[at(i, k)]! * vector[k]!;
      return sum;
    });
  const byRow = (i: number, k: number) => i * SIZE + k;
  const wanted = times(
    x,
    times(w, r, (i, k) => byRow(k, i)),
    byRow,
  );
  return times(y, r, byRow).every((value, i) => value === wanted[i]);
}
