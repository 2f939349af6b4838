// Builds programs of .cu files and the emulator's runtime with g++: plain, under AddressSanitizer with
// UndefinedBehaviorSanitizer, and under ThreadSanitizer. The runtime itself is never instrumented: it tells the
// sanitizers of its fibers. Everything is cached as in the build.

import { mkdirSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { cached, inParallel, kernels, objects, withIncludes } from "../../build/compile.ts";
import { ensureCudaHeaders } from "../../build/toolchain.ts";

export type Build = "plain" | "address" | "thread";

const instrumented: Record<Build, string[]> = {
  plain: [],
  address: ["-fsanitize=address,alignment,bounds", "-fno-sanitize-recover=all"],
  thread: ["-fsanitize=thread"],
};
const runtimeFlags: Record<Build, string[]> = {
  plain: [],
  address: ["-DNT_EMULATED_ASAN"],
  thread: ["-DNT_EMULATED_TSAN"],
};

/** What g++ needs to read a .cu file or a file of the emulator. */
export async function emulatedCompiler(): Promise<string[]> {
  return [
    ...["g++", "-std=c++17", "-march=x86-64-v3", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC"],
    ...["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-class-memaccess", "-DNT_EMULATED"],
    ...["-isystem", await ensureCudaHeaders(), "-I", kernels, "-x", "c++"],
  ];
}

/** Compiles `sources` and the runtime into one executable; returns its path. */
export async function buildEmulatedProgram(name: string, build: Build, sources: string[]): Promise<string> {
  mkdirSync(objects, { recursive: true });
  const emulator = join(kernels, "emulator");
  const compiler = [...(await emulatedCompiler()), "-O1", "-g1"];
  const objectOf = (source: string) => join(objects, `${name}-${build}-${basename(source)}.o`);
  const runtime = readdirSync(emulator)
    .filter((file) => file.endsWith(".cpp"))
    .map((file) => join(emulator, file));
  const compile = (source: string, flags: string[]) => () =>
    cached(objectOf(source), [...compiler, ...flags, "-c", source], withIncludes(source), {});
  await inParallel([
    ...sources.map((source) => compile(source, instrumented[build])),
    ...runtime.map((source) => compile(source, runtimeFlags[build])),
  ]);
  const parts = [...sources, ...runtime].map(objectOf);
  const program = join(objects, `${name}-${build}`);
  await cached(program, ["g++", ...instrumented[build], ...parts, "-lpthread", "-ldl"], parts, {});
  return program;
}

export interface Outcome {
  status: number;
  /** Standard output and standard error. */
  text: string;
}

/** Runs a built program with a seed for the order of threads and blocks (0: the natural order). */
export async function runEmulated(
  program: string,
  args: string[],
  seed: number,
  env: Record<string, string> = {},
): Promise<Outcome> {
  const child = Bun.spawn([program, ...args], {
    env: {
      ...process.env,
      NEFTUNE_EMULATOR_SEED: String(seed),
      ASAN_OPTIONS: "detect_leaks=0",
      TSAN_OPTIONS: "halt_on_error=1",
      ...env,
    },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { status: await child.exited, text: out + err };
}
