// Builds the native libraries and then the one executable, dist/neftune.
//
//   bun build.ts              the CPU backend and the executable
//   bun build.ts --cuda       with the CUDA backend (fetches nvcc where no CUDA toolkit is installed)
//   bun build.ts --emulated   and the CUDA kernels under the emulator, for tests
//   bun build.ts --native     the libraries alone (what `bun src/main.ts` needs)

import { join } from "node:path";
import { architectures, buildCuda, buildEmulated, leaveOutStaleCuda } from "./build/cuda.ts";
import { buildExecutable } from "./build/executable.ts";
import { commit } from "./build/facts.ts";
import { buildNative } from "./build/native.ts";

await buildNative();
if (process.argv.includes("--emulated")) await buildEmulated();
if (process.argv.includes("--cuda")) await buildCuda();
const hasCuda = !leaveOutStaleCuda();
if (!process.argv.includes("--native")) {
  const facts = { commit: commit(), cudaArchitectures: hasCuda ? architectures : [] };
  await buildExecutable(join(import.meta.dir, "dist", "neftune"), facts);
}
