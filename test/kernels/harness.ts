// Runs one test body for every backend and instruction set of this machine, with random inputs and comparisons.

import { afterAll, describe, expect } from "bun:test";
import { supportedIsas } from "../../src/native/cpu-isa.ts";
import { Device, type DType, type Tensor } from "../../src/native/index.ts";
import { loadCpuLibrary, loadCudaLibrary } from "../../src/native/library.ts";
import { backends } from "../backends.ts";

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
    return Float32Array.from({ length: n }, () => this.next() * scale);
  }
}

/** Rounds to the dtype's precision, so that a reference starts from the same inputs as the kernel. */
export function roundTo(dtype: DType, values: Float32Array): Float32Array<ArrayBuffer> {
  if (dtype !== "bf16") return Float32Array.from(values);
  const bits = new Uint32Array(Float32Array.from(values).buffer);
  return new Float32Array(
    Uint32Array.from(bits, (b) => ((b + 0x7fff + ((b >>> 16) & 1)) & 0xffff0000) >>> 0).buffer,
  );
}

/** A device tensor with these values (already rounded to dtype). */
export function upload(device: Device, dtype: DType, shape: readonly number[], values: Float32Array): Tensor {
  const tensor = device.allocate(dtype, shape);
  device.writeFloats(tensor, values);
  return tensor;
}

export function uploadInts(device: Device, values: ArrayLike<number>): Tensor {
  const tensor = device.allocate("i32", [values.length]);
  device.write(tensor, Int32Array.from(values));
  return tensor;
}

/** A tensor whose every byte is 0xff: NaN, so that what a kernel leaves unwritten shows. */
export function poisoned(device: Device, dtype: DType, shape: readonly number[]): Tensor {
  const tensor = device.allocate(dtype, shape);
  device.fill(tensor, 0xff);
  return tensor;
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

/** Runs the tests of `body` once for every backend at hand; NEFTUNE_CPU_ISA narrows the CPU's to one (then oneDNN's too). */
export function forEachBackend(body: (device: Device, name: string) => void): void {
  const run = (name: string, device: Device) => {
    describe(name, () => {
      afterAll(() => device.close());
      body(device, name);
    });
  };
  const forced = process.env.NEFTUNE_CPU_ISA;
  for (const { kind, env } of backends) {
    if (kind !== "cpu") {
      run(kind, Device.open({ library: loadCudaLibrary(env) }));
      continue;
    }
    for (const isa of supportedIsas().filter((name) => forced === undefined || name === forced)) {
      const library = loadCpuLibrary(forced === undefined ? { NEFTUNE_CPU_ISA: isa } : process.env);
      run(`cpu ${isa}`, Device.open({ threads: 2, library }));
    }
  }
}
