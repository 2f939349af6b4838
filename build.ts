// Builds the native libraries and then the one executable, dist/neftune.
//
//   bun build.ts              the CPU backend and the executable
//   bun build.ts --cuda       with the CUDA backend (fetches nvcc where no CUDA toolkit is installed)
//   bun build.ts --emulated   and the CUDA kernels under the emulator, for tests
//   bun build.ts --native     the libraries alone (what `bun src/main.ts` needs)

import { chmodSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildCuda, buildEmulated, leaveOutStaleCuda } from "./build/cuda.ts";
import { buildNative } from "./build/native.ts";

const outfile = join(import.meta.dir, "dist", "neftune");

async function buildExecutable(): Promise<void> {
  const result = await Bun.build({
    entrypoints: [
      join(import.meta.dir, "src", "main.ts"),
      join(import.meta.dir, "src", "cli", "interrupt-worker.ts"),
      join(import.meta.dir, "src", "data", "encoder-worker.ts"),
      join(import.meta.dir, "src", "data", "tokenize-worker.ts"),
      join(import.meta.dir, "src", "data", "source", "parquet-worker.ts"),
    ],
    target: "bun",
    minify: { syntax: true, whitespace: true },
    compile: { target: "bun-linux-x64", outfile, autoloadDotenv: false, autoloadBunfig: false },
  });
  if (!result.success) throw new AggregateError(result.logs, "bundling failed");
  withoutBunVariables(outfile);
  chmodSync(outfile, 0o755);
  console.error(`${outfile}: ${(statSync(outfile).size / 2 ** 20).toFixed(0)} MiB`);
}

/**
 * Bun reads these variables in compiled programs, too: BUN_OPTIONS would run other people's code in neftune, and
 * BUN_BE_BUN turn it into Bun. There is no setting for that, so their names in the executable become empty, which no
 * variable's name is.
 */
function withoutBunVariables(executable: string): void {
  const bytes = readFileSync(executable);
  for (const name of ["BUN_OPTIONS", "BUN_BE_BUN"]) {
    const at = bytes.indexOf(`\0${name}\0`);
    if (at < 0 || bytes.indexOf(`\0${name}\0`, at + 1) >= 0) {
      throw new Error(`${executable}: ${name} does not stand there once; look how this Bun reads it`);
    }
    bytes[at + 1] = 0;
  }
  writeFileSync(executable, bytes);
}

await buildNative();
if (process.argv.includes("--emulated")) await buildEmulated();
if (process.argv.includes("--cuda")) await buildCuda();
leaveOutStaleCuda();
if (!process.argv.includes("--native")) await buildExecutable();
