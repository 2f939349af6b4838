// Builds kernels/cuda twice over: with nvcc for GPUs (dist/native/libneftune-cuda.so, embedded), and with g++ against
// the emulator (dist/native/libneftune-emulated.so, for tests).

import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { cached, compress, hashOf, inParallel, kernels, objects, output, withIncludes } from "./compile.ts";
import { type Platform, x64 } from "./platform.ts";
import { ensureCudaHeaders, ensureCudaToolkit, ensureToolchain } from "./toolchain.ts";

/** What the library for this machine's platform holds machine code for. */
export const architectures = x64.cudaArchitectures;

const cudaFolder = join(kernels, "cuda");
const emulatorFolder = join(kernels, "emulator");

/** Every file of kernels/cuda that is compiled. */
export const cudaSources = (): string[] =>
  readdirSync(cudaFolder)
    .filter((file) => file.endsWith(".cu"))
    .sort()
    .map((file) => join(cudaFolder, file));

/**
 * Architectures in groups that get machine code from one PTX, that of a group's first: the kernels' PTX for the others
 * differs in the name of its target only, and making it takes most of nvcc's time. From 10 on, major versions share one.
 */
const generations = (architectures: readonly string[]): string[][] =>
  Object.values(Object.groupBy(architectures, (sm) => Math.min(Math.floor(Number(sm) / 10), 10))).map(
    (group) => group!,
  );

/** nvcc's options for every source. */
function nvccOptions(architectures: readonly string[]): string[] {
  const groups = generations(architectures);
  const generate = groups.map((group) => {
    const code = group.map((sm) => `sm_${sm}`);
    if (group === groups.at(-1)) code.push(`compute_${group[0]}`); // for later GPUs
    return `-gencode=arch=compute_${group[0]},code=[${code}]`;
  });
  return [
    ...["-std=c++17", "-O3", ...generate],
    ...["-Xfatbin=-compress-all", "-Xptxas=-v", "-Werror=all-warnings"],
    ...[
      "-Xcompiler=-Wall,-Wextra,-Werror,-O3,-fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics",
    ],
    ...[`-DNT_ARCHITECTURES="${architectures.join(",")}"`, "-I", kernels, "-c"],
  ];
}

/** nvcc names kernels after their source's whole path; this tells it one that is the same in every checkout. */
const named = (source: string): string[] => [
  "-Xcudafe",
  `--orig_src_path_name,kernels/cuda/${basename(source)}`,
];

/** What decides whether a built CUDA library is that of the sources, and of nvcc's options, as they are. */
export const cudaStamp = (platform: Platform, options = nvccOptions(platform.cudaArchitectures)): string =>
  hashOf(options, cudaSources().flatMap(withIncludes));
const prefix = (platform: Platform) => (platform === x64 ? "" : `${platform.cpu}-`);
const stampFile = (platform: Platform) => join(objects, `${prefix(platform)}libneftune-cuda.stamp`);
const cudaLibrary = (platform: Platform) => join(platform.native, "libneftune-cuda.so");

/** Where the object file of a source goes; ptxas's report on its kernels lies beside it with `.log` added. */
export const cudaObject = (source: string, platform = x64): string =>
  join(objects, `${prefix(platform)}cuda-${source.split("/").at(-1)}.o`);

/** What the library for another platform is built with. */
export interface Cross {
  platform: Platform;
  /** The host compiler. */
  compiler: string;
  /** libcudart_static.a. */
  runtime: string;
}

/** The CUDA library for GPUs. Fetches nvcc where no toolkit is installed. */
export async function buildCuda(cross?: Cross): Promise<void> {
  const platform = cross?.platform ?? x64;
  mkdirSync(objects, { recursive: true });
  mkdirSync(platform.native, { recursive: true });
  const [tools, toolkit] = [await ensureToolchain(), await ensureCudaToolkit()];
  const command = [toolkit.nvcc, ...nvccOptions(platform.cudaArchitectures)];
  if (cross !== undefined) command.push("-ccbin", cross.compiler);
  const runtime = cross?.runtime ?? toolkit.runtime;
  const library = cudaLibrary(platform);
  const sources = cudaSources();
  await inParallel(
    sources.map((source) => () => {
      const compile = [...command, ...named(source), source];
      return cached(cudaObject(source, platform), compile, withIncludes(source), {});
    }),
  );
  const parts = sources.map((source) => cudaObject(source, platform));
  const link = [
    tools.zig,
    "cc",
    ...platform.target,
    "-shared",
    "-s",
    "-Wl,-z,defs",
    "-Wl,-soname,libneftune-cuda.so",
  ];
  await cached(
    library,
    [...link, ...parts, runtime, "-lpthread", "-ldl", "-lrt", "-lm"],
    [...parts, runtime],
    tools.env,
  );
  await compress(library);
  writeFileSync(stampFile(platform), cudaStamp(platform));
  const mib = (path: string) => `${(statSync(path).size / 2 ** 20).toFixed(1)} MiB`;
  console.error(`${library}: ${mib(library)}, ${mib(`${library}.zst`)} compressed`);
}

/** Where the CUDA library was not built from the sources as they are, an empty file stands for it; returns whether. */
export function leaveOutStaleCuda(platform = x64): boolean {
  const packed = `${cudaLibrary(platform)}.zst`;
  const stamp = stampFile(platform);
  const fresh =
    existsSync(packed) && existsSync(stamp) && readFileSync(stamp, "utf8") === cudaStamp(platform);
  if (!fresh) writeFileSync(packed, "");
  return !fresh;
}

/** The same kernels under the emulator, by g++. */
export async function buildEmulated(): Promise<void> {
  mkdirSync(objects, { recursive: true });
  mkdirSync(output, { recursive: true });
  const include = await ensureCudaHeaders();
  const compile = [
    ...["g++", "-std=c++17", "-O2", "-g1", "-march=x86-64-v3", "-ffp-contract=off", "-fno-strict-aliasing"],
    ...["-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"],
    ...["-DNT_EMULATED", "-isystem", include, "-I", kernels, "-x", "c++", "-c"],
  ];
  const runtime = readdirSync(emulatorFolder)
    .filter((file) => file.endsWith(".cpp"))
    .map((file) => join(emulatorFolder, file));
  const sources = [...cudaSources(), ...runtime];
  const objectOf = (source: string) => join(objects, `emulated-${source.split("/").at(-1)}.o`);
  await inParallel(
    sources.map((source) => () => cached(objectOf(source), [...compile, source], withIncludes(source), {})),
  );
  const parts = sources.map(objectOf);
  const library = join(output, "libneftune-emulated.so");
  // Its own C++ library: the process may hold the reduced one that oneDNN uses.
  const link = ["g++", "-shared", "-static-libstdc++", "-static-libgcc", "-Wl,-Bsymbolic", "-Wl,-z,defs"];
  await cached(library, [...link, ...parts, "-lpthread", "-ldl"], parts, {});
}
