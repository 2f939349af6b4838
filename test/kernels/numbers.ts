// Random inputs, numeric gradients and comparisons for the tests of kernels.

import { expect } from "bun:test";
import type { DType } from "../../src/native/index.ts";

/** A deterministic generator for test inputs (mulberry32), values in [−1, 1). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let x = this.#state;
    x = Math.imul(x ^ (x >>> 15), x | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 31 - 1;
  }

  integer(below: number): number {
    return Math.min(below - 1, Math.floor(((this.next() + 1) / 2) * below));
  }

  floats(n: number, scale = 1): Float32Array<ArrayBuffer> {
    const values = new Float32Array(n);
    for (let i = 0; i < n; i++) values[i] = this.next() * scale;
    return values;
  }
}

/** Rounds to the dtype's precision, so that a reference starts from the same inputs as the kernel. */
export function roundTo(dtype: DType, values: Float32Array): Float32Array<ArrayBuffer> {
  const rounded = new Float32Array(values);
  if (dtype !== "bf16") return rounded;
  const bits = new Uint32Array(rounded.buffer);
  for (let i = 0; i < bits.length; i++) bits[i] = (bits[i]! + 0x7fff + ((bits[i]! >>> 16) & 1)) & 0xffff0000;
  return rounded;
}

/** The gradient of `loss` at `values`, by central differences of `step`, in the precision of `values`. */
export function slopes<Values extends Float32Array | Float64Array>(
  values: Values,
  loss: (changed: Values) => number,
  step: number,
): Float64Array {
  const changed = values.slice() as Values;
  return Float64Array.from(values, (value, i) => {
    changed[i] = value + step;
    const up = loss(changed);
    changed[i] = value - step;
    const down = loss(changed);
    changed[i] = value;
    return (up - down) / (2 * step);
  });
}

/** max |got − want| must be at most `tolerance` · max(|want|, 1e-30); NaN and length mismatches fail. */
export function expectClose(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  tolerance: number,
  what = "values",
): void {
  expect(got.length, `${what}: length`).toBe(want.length);
  let largest = 1e-30;
  for (let i = 0; i < want.length; i++) largest = Math.max(largest, Math.abs(want[i]!));
  let worst = 0;
  let at = -1;
  for (let i = 0; i < want.length; i++) {
    const error = Math.abs(got[i]! - want[i]!);
    if (!(error <= worst)) {
      worst = error;
      at = i;
      if (Number.isNaN(error)) break;
    }
  }
  const message = `${what}: ${got[at]} instead of ${want[at]} at ${at}, relative to the largest value ${largest}`;
  expect(worst / largest, message).toBeLessThanOrEqual(tolerance);
}

/** bf16 has 8 bits of precision: half a unit in the last place is up to 2⁻⁸ of the value. */
export const tolerance = { f32: 2e-6, bf16: 6e-3 } as const;
