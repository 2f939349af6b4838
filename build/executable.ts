// The one executable: sources, native libraries and Bun's runtime in a file.

import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import type { BuildFacts } from "../src/cli/version.ts";
import { root } from "./compile.ts";
import { type Platform, x64 } from "./platform.ts";

const source = (...parts: string[]) => join(root, "src", ...parts);

/** The program and its workers. */
export const entrypoints: string[] = [
  source("main.ts"),
  source("cli", "process", "interrupt-worker.ts"),
  source("data", "encoder-worker.ts"),
  source("data", "tokenize-worker.ts"),
  source("data", "source", "parquet-worker.ts"),
  source("ranks", "watch-worker.ts"),
];

/** Bun's runtime for another platform than this machine's. */
export interface Runtime {
  platform: Platform;
  /** The file. */
  bun: string;
}

/** Bundles src/main.ts, the workers and the platform's native libraries. What was there is replaced whole: it may run. */
export async function buildExecutable(facts: BuildFacts, runtime?: Runtime): Promise<void> {
  const { name, executable } = runtime?.platform ?? x64;
  const unfinished = `${executable}.unfinished`;
  mkdirSync(unfinished, { recursive: true });
  try {
    const outfile = join(unfinished, basename(executable));
    await bundle(outfile, name, facts, runtime);
    withoutBunVariables(outfile);
    chmodSync(outfile, 0o755);
    renameSync(outfile, executable);
  } finally {
    rmSync(unfinished, { recursive: true });
  }
  console.error(`${executable}: ${(statSync(executable).size / 2 ** 20).toFixed(0)} MiB`);
}

async function bundle(
  outfile: string,
  name: Platform["name"],
  facts: BuildFacts,
  runtime?: Runtime,
): Promise<void> {
  const result = await Bun.build({
    entrypoints,
    target: "bun",
    minify: { syntax: true, whitespace: true },
    define: { NEFTUNE_BUILD: JSON.stringify(facts) },
    conditions: [name], // picks the libraries, by "imports" in package.json
    compile: {
      target: `bun-${name}`,
      outfile,
      autoloadDotenv: false,
      autoloadBunfig: false,
      ...(runtime === undefined ? {} : { executablePath: runtime.bun }),
    },
  });
  if (!result.success) throw new AggregateError(result.logs, "bundling failed");
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
