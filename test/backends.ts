// Which backends the tests run on. NEFTUNE_TEST_BACKENDS (comma-separated: cpu, emulated, cuda) narrows or widens it;
// without it: the CPU, and the CUDA kernels under the emulator where that library has been built.

import { afterAll, describe } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Device } from "../src/native/index.ts";
import { loadCudaLibrary } from "../src/native/library.ts";

export type BackendKind = "cpu" | "emulated" | "cuda";

export interface Backend {
  kind: BackendKind;
  /** What a process needs in its environment so that --device cuda means this backend. */
  env: Record<string, string | undefined>;
}

const built = join(import.meta.dir, "..", "dist", "native", "libneftune-emulated.so");
const emulator = process.env.NEFTUNE_CUDA_LIBRARY ?? built;

function wanted(): BackendKind[] {
  const names = process.env.NEFTUNE_TEST_BACKENDS;
  if (names === undefined) return existsSync(emulator) ? ["cpu", "emulated"] : ["cpu"];
  return names.split(",").map((name) => {
    if (name !== "cpu" && name !== "emulated" && name !== "cuda")
      throw new Error(`NEFTUNE_TEST_BACKENDS: ${name} is none of cpu, emulated, cuda`);
    return name;
  });
}

export const backends: readonly Backend[] = wanted().map((kind) => ({
  kind,
  env: { ...process.env, NEFTUNE_CUDA_LIBRARY: kind === "emulated" ? emulator : undefined },
}));

/** The emulated GPU, where its library was built and is asked for. */
export const emulated = backends.find(({ kind }) => kind === "emulated");

/** A device of a backend, the CPU's with its best instruction set and two threads. */
export function openBackend({ kind, env }: Backend): Device {
  return kind === "cpu" ? Device.open({ threads: 2 }) : Device.open({ library: loadCudaLibrary(env) });
}

/** Runs the tests of `body` once on every backend's device. */
export function describeBackends(body: (device: Device) => void): void {
  for (const backend of backends) {
    describe(backend.kind, () => {
      const device = openBackend(backend);
      afterAll(() => device.close());
      body(device);
    });
  }
}
