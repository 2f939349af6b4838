// Builds the native libraries and then the one executable, dist/neftune.
//
//   bun build.ts              the CPU backend and the executable
//   bun build.ts --cuda       with the CUDA backend (fetches nvcc where no CUDA toolkit is installed)
//   bun build.ts --emulated   and the CUDA kernels under the emulator, for tests
//   bun build.ts --native     the libraries alone (what `bun src/main.ts` needs)
//   bun build.ts --arm64      the same for arm64, from this machine: dist/native-arm64, dist/neftune-linux-arm64

import { buildArm64 } from "./build/arm64/build.ts";
import { architectures, buildCuda, buildEmulated, leaveOutStaleCuda } from "./build/cuda.ts";
import { buildExecutable } from "./build/executable.ts";
import { commit } from "./build/facts.ts";
import { buildNative } from "./build/native.ts";

const has = (flag: string) => process.argv.includes(flag);

async function build(): Promise<void> {
  await buildNative();
  if (has("--emulated")) await buildEmulated();
  if (has("--cuda")) await buildCuda();
  const hasCuda = !leaveOutStaleCuda();
  if (!has("--native"))
    await buildExecutable({ commit: commit(), cudaArchitectures: hasCuda ? architectures : [] });
}

await (has("--arm64") ? buildArm64({ withCuda: has("--cuda"), withExecutable: !has("--native") }) : build());
