// Builds kernels/cuda twice over: with nvcc for GPUs (dist/native/libneftune-cuda.so, embedded), and with g++ against
// the emulator (dist/native/libneftune-emulated.so, for tests).

import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  cached,
  compress,
  hashOf,
  headersUnder,
  inParallel,
  kernels,
  objects,
  output,
  sharedHeaders,
} from "./compile.ts";
import {
  type CudaToolkit,
  ensureCudaHeaders,
  ensureCudaToolkit,
  ensureToolchain,
  target,
} from "./toolchain.ts";

/** What the library holds machine code for; PTX of the newest serves what comes later. */
export const architectures = ["80", "86", "89", "90", "100", "120"];

const cudaFolder = join(kernels, "cuda");
const emulatorFolder = join(kernels, "emulator");

/** Every file of kernels/cuda that is compiled. */
export const cudaSources = (): string[] =>
  readdirSync(cudaFolder)
    .filter((file) => file.endsWith(".cu"))
    .sort()
    .map((file) => join(cudaFolder, file));

const headers = () => [...sharedHeaders(), ...headersUnder(cudaFolder)];

/** nvcc's command up to the source file, without `-o`. */
function nvccCommand(toolkit: CudaToolkit): string[] {
  const newest = architectures.at(-1)!;
  const generate = architectures.map((sm) => `-gencode=arch=compute_${sm},code=sm_${sm}`);
  generate.push(`-gencode=arch=compute_${newest},code=compute_${newest}`);
  return [
    ...[
      toolkit.nvcc,
      "-std=c++17",
      "-O3",
      ...generate,
      "-Xfatbin=-compress-all",
      "-Xptxas=-v",
      "-Werror=all-warnings",
    ],
    ...[
      "-Xcompiler=-Wall,-Wextra,-Werror,-O3,-fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics",
    ],
    ...[`-DNT_ARCHITECTURES="${architectures.join(",")}"`, "-I", kernels, "-c"],
  ];
}

/** What decides whether a built CUDA library is that of the sources as they are. */
const cudaStamp = () => hashOf(architectures, [...cudaSources(), ...headers()]);
const stampFile = join(objects, "libneftune-cuda.stamp");
const cudaLibrary = join(output, "libneftune-cuda.so");

/** Where the object file of a source goes; ptxas's report on its kernels lies beside it with `.log` added. */
export const cudaObject = (source: string): string => join(objects, `cuda-${source.split("/").at(-1)}.o`);

/** The CUDA library for GPUs. Fetches nvcc where no toolkit is installed. */
export async function buildCuda(): Promise<void> {
  mkdirSync(objects, { recursive: true });
  mkdirSync(output, { recursive: true });
  const [tools, toolkit] = [await ensureToolchain(), await ensureCudaToolkit()];
  const sources = cudaSources();
  const inputs = headers();
  await inParallel(
    sources.map(
      (source) => () =>
        cached(cudaObject(source), [...nvccCommand(toolkit), source], [source, ...inputs], {}),
    ),
  );
  const parts = sources.map(cudaObject);
  const link = [tools.zig, "cc", ...target, "-shared", "-s", "-Wl,-z,defs", "-Wl,-soname,libneftune-cuda.so"];
  await cached(
    cudaLibrary,
    [...link, ...parts, toolkit.runtime, "-lpthread", "-ldl", "-lrt", "-lm"],
    [...parts, toolkit.runtime],
    tools.env,
  );
  compress(cudaLibrary);
  writeFileSync(stampFile, cudaStamp());
  const mib = (path: string) => `${(statSync(path).size / 2 ** 20).toFixed(1)} MiB`;
  console.error(`${cudaLibrary}: ${mib(cudaLibrary)}, ${mib(`${cudaLibrary}.zst`)} compressed`);
}

/** Where the CUDA library was not built from the sources as they are, an empty file stands for it; returns whether. */
export function leaveOutStaleCuda(): boolean {
  const packed = `${cudaLibrary}.zst`;
  const fresh =
    existsSync(packed) && existsSync(stampFile) && readFileSync(stampFile, "utf8") === cudaStamp();
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
  const inputs = [...headers(), ...headersUnder(emulatorFolder)];
  const objectOf = (source: string) => join(objects, `emulated-${source.split("/").at(-1)}.o`);
  await inParallel(
    sources.map((source) => () => cached(objectOf(source), [...compile, source], [source, ...inputs], {})),
  );
  const parts = sources.map(objectOf);
  const library = join(output, "libneftune-emulated.so");
  // Its own C++ library: the process may hold the reduced one that oneDNN uses.
  const link = ["g++", "-shared", "-static-libstdc++", "-static-libgcc", "-Wl,-Bsymbolic", "-Wl,-z,defs"];
  await cached(library, [...link, ...parts, "-lpthread", "-ldl"], parts, {});
}
