// Runs one test body for every backend and instruction set of this machine; tensors on the device.

import { afterAll, describe } from "bun:test";
import { supportedIsas } from "../../src/native/cpu-isa.ts";
import { Device, type DType, type Tensor } from "../../src/native/index.ts";
import { loadCpuLibrary, loadCudaLibrary } from "../../src/native/library.ts";
import { backends } from "../backends.ts";

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

/** `few` rows, and on a CPU also enough rows for the backend's own products. */
export const manyRows = (device: Device, few: number): number[] => (device.isHost ? [few, 300] : [few]);

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
