// Builds the native libraries for arm64 into dist/native-arm64, each compressed beside itself (.zst) for embedding.
//
//   libgomp.so.1             the thread pool
//   libscipy_openblas.so     OpenBLAS, as its wheel has it
//   libneftune-neon.so       kernels/cpu with SIMDe's NEON for AVX2's functions; matrix products are kernels/arm64's
//   libneftune-faults.so     kernels/faults

import { copyFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { compress, inParallel, kernels, objects } from "../compile.ts";
import { buildFaults, buildPool, cpuSources, kernelVariant } from "../native.ts";
import { arm64 } from "../platform.ts";
import { ensureToolchain, ensureWheels } from "../toolchain.ts";
import { ensureDebian } from "./debian.ts";

/** The folder with the wheels of requirements.txt: OpenBLAS and the static CUDA runtime. */
export const ensureArm64Wheels = (): Promise<string> =>
  ensureWheels(
    "arm64",
    "arm64/requirements.txt",
    "OpenBLAS and the CUDA runtime for arm64 (about 12 MB)",
    "aarch64",
  );

/** Builds everything but the CUDA library. */
export async function buildNativeArm64(): Promise<void> {
  mkdirSync(objects, { recursive: true });
  mkdirSync(arm64.native, { recursive: true });
  const tools = await ensureToolchain();
  const [debian, wheels] = [await ensureDebian(), await ensureArm64Wheels()];
  const own = join(kernels, "arm64");
  const openblas = join(arm64.native, "libscipy_openblas.so");
  copyFileSync(join(wheels, "scipy_openblas32", "lib", "libscipy_openblas.so"), openblas);
  const pool = await buildPool(tools, arm64);
  const pins = ["debian.txt", "requirements.txt"].map((name) => join(import.meta.dir, name));
  const neon = kernelVariant(
    {
      name: "neon",
      platform: arm64,
      flags: [],
      includes: ["-I", own, "-isystem", join(debian, "usr", "include")],
      sources: [...cpuSources().filter((path) => !path.endsWith("/matmul.cpp")), join(own, "matmul.cpp")],
      inputs: [join(own, "immintrin.h"), ...pins],
      needed: [openblas, pool],
    },
    tools,
  );
  await inParallel([() => compress(openblas), ...neon.jobs]); // the longest first
  await neon.link();
  const libraries = [pool, openblas, neon.library, await buildFaults(tools, arm64)];
  await inParallel(libraries.map((library) => () => compress(library)));
}
