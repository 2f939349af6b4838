// The one executable: sources, native libraries and Bun's runtime in a file.

import { chmodSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { BuildFacts } from "../src/cli/version.ts";
import { root } from "./compile.ts";

const source = (...parts: string[]) => join(root, "src", ...parts);

/** Bundles src/main.ts and the workers into `outfile`; the native libraries lie in dist/native. */
export async function buildExecutable(outfile: string, facts: BuildFacts): Promise<void> {
  const result = await Bun.build({
    entrypoints: [
      source("main.ts"),
      source("cli", "interrupt-worker.ts"),
      source("data", "encoder-worker.ts"),
      source("data", "tokenize-worker.ts"),
      source("data", "source", "parquet-worker.ts"),
      source("ranks", "watch-worker.ts"),
    ],
    target: "bun",
    minify: { syntax: true, whitespace: true },
    define: { NEFTUNE_BUILD: JSON.stringify(facts) },
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
