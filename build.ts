// Builds the native libraries and then the one executable, dist/neftune.
//
//   bun build.ts              the CPU backend and the executable
//   bun build.ts --cuda       with the CUDA backend (fetches nvcc where no CUDA toolkit is installed)
//   bun build.ts --emulated   and the CUDA kernels under the emulator, for tests
//   bun build.ts --native     the libraries alone (what `bun src/main.ts` needs)

import { chmodSync, statSync } from "node:fs";
import { join } from "node:path";
import { buildCuda, buildEmulated, leaveOutStaleCuda } from "./build/cuda.ts";
import { buildNative } from "./build/native.ts";

const outfile = join(import.meta.dir, "dist", "neftune");

async function buildExecutable(): Promise<void> {
  const result = await Bun.build({
    entrypoints: [
      join(import.meta.dir, "src", "main.ts"),
      join(import.meta.dir, "src", "cli", "interrupt-worker.ts"),
      join(import.meta.dir, "src", "data", "tokenize-worker.ts"),
      join(import.meta.dir, "src", "data", "source", "parquet-worker.ts"),
    ],
    target: "bun",
    minify: { syntax: true, whitespace: true },
    compile: { target: "bun-linux-x64", outfile, autoloadDotenv: false, autoloadBunfig: false },
  });
  if (!result.success) throw new AggregateError(result.logs, "bundling failed");
  chmodSync(outfile, 0o755);
  console.error(`${outfile}: ${(statSync(outfile).size / 2 ** 20).toFixed(0)} MiB`);
}

await buildNative();
if (process.argv.includes("--emulated")) await buildEmulated();
if (process.argv.includes("--cuda")) await buildCuda();
leaveOutStaleCuda();
if (!process.argv.includes("--native")) await buildExecutable();
