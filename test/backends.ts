// Which backends the tests run on. NEFTUNE_TEST_BACKENDS (comma-separated: cpu, emulated, cuda) narrows or widens it;
// without it: the CPU, and the CUDA kernels under the emulator where that library has been built.

import { existsSync } from "node:fs";
import { join } from "node:path";

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
