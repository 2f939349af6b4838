// Fetches the pinned wheels of requirements*.txt into .toolchain/, once: the compiler (zig's clang, which can target an
// old glibc) and oneDNN; for the CUDA kernels the toolkit's headers, and, only where the kernels are compiled for
// GPUs and no CUDA toolkit is installed, nvcc.

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Platform } from "./platform.ts";

const folder = join(import.meta.dir, "..", ".toolchain");

/** Runs a command; what it says is shown only when it fails. Throws with that. Returns its standard output. */
export async function run(command: string[], env: Record<string, string> = {}): Promise<string> {
  return (await runBoth(command, env)).out;
}

/** The same; returns standard output and standard error. */
export async function runBoth(
  command: string[],
  env: Record<string, string> = {},
): Promise<{ out: string; err: string }> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe", env: { ...process.env, ...env } });
  const [out, err, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (status !== 0) throw new Error(`${command.join(" ")}\nexited with ${status}\n${err}${out}`);
  return { out, err };
}

/** Fetches the wheels that a requirements file pins and unpacks them into a folder of .toolchain, which it returns. */
export async function ensureWheels(
  name: string,
  requirements: string,
  what: string,
  machine: Platform["machine"] = "x86_64",
): Promise<string> {
  const list = join(import.meta.dir, requirements);
  const pins = readFileSync(list, "utf8");
  const ready = join(folder, name);
  const stamp = join(ready, "stamp");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === pins) return ready;
  const wheels = join(folder, `${name}-wheels`);
  const unpacked = join(folder, `${name}-unpacking`);
  for (const old of [wheels, unpacked]) rmSync(old, { recursive: true, force: true });
  mkdirSync(unpacked, { recursive: true });
  console.error(`fetching ${what}, once`);
  try {
    await run(["python3", "-m", "pip", "--version"]);
  } catch {
    throw new Error(
      "the build needs Python 3 with pip (Debian: apt install python3-pip) to fetch its compilers",
    );
  }
  const platforms = [
    "manylinux_2_28",
    "manylinux_2_17",
    "manylinux2014",
    "manylinux_2_12",
    "manylinux2010",
    "manylinux1",
  ];
  await run([
    ...["python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"],
    ...["--require-hashes", "--only-binary=:all:", "--implementation", "py", "--abi", "none"],
    ...platforms.flatMap((platform) => ["--platform", `${platform}_${machine}`]),
    ...["--dest", wheels, "--requirement", list],
  ]);
  for (const wheel of readdirSync(wheels)) {
    await run(["python3", "-m", "zipfile", "-e", join(wheels, wheel), unpacked]);
  }
  rmSync(wheels, { recursive: true });
  writeFileSync(join(unpacked, "stamp"), pins);
  rmSync(ready, { recursive: true, force: true });
  renameSync(unpacked, ready);
  return ready;
}

export interface Toolchain {
  /** zig's executable: `zig cc`, `zig c++`. */
  zig: string;
  /** zig's environment: where it caches. */
  env: Record<string, string>;
  /** Folder with oneapi/dnnl/dnnl.h. */
  dnnlInclude: string;
  /** libdnnl.so.3. */
  dnnlLibrary: string;
}

/** The compiler of the CPU backend and oneDNN. */
export async function ensureToolchain(): Promise<Toolchain> {
  const packages = await ensureWheels(
    "packages",
    "requirements.txt",
    "the toolchain (compiler and oneDNN, about 140 MB)",
  );
  const zig = join(packages, "ziglang", "zig");
  await run(["chmod", "+x", zig]);
  const cache = join(folder, "zig-cache");
  return {
    zig,
    env: { ZIG_GLOBAL_CACHE_DIR: cache, ZIG_LOCAL_CACHE_DIR: cache },
    dnnlInclude: join(packages, "onednn_devel_cpu_gomp-2023.2.0.data", "data", "include"),
    dnnlLibrary: join(packages, "onednn_cpu_gomp-2023.2.0.data", "data", "lib", "libdnnl.so.3"),
  };
}

/** The folder with cuda_runtime.h: all that the emulated backend needs of CUDA. */
export async function ensureCudaHeaders(): Promise<string> {
  const packages = await ensureWheels(
    "cuda-headers",
    "requirements-cuda-headers.txt",
    "the CUDA headers (about 6 MB)",
  );
  return join(packages, "nvidia", "cu13", "include");
}

export interface CudaToolkit {
  nvcc: string;
  /** cuobjdump, where there is one (the wheels have none). */
  cuobjdump: string | null;
  /** libcudart_static.a. */
  runtime: string;
  /** e.g. "13.0"; for messages and stamps. */
  version: string;
}

/** An installed toolkit of CUDA 13 (CUDA_HOME, or nvcc on the PATH, or /usr/local/cuda), else nvcc's wheels. */
export async function ensureCudaToolkit(): Promise<CudaToolkit> {
  const onPath = Bun.which("nvcc");
  const homes = [
    process.env.CUDA_HOME,
    onPath === null ? undefined : join(onPath, "..", ".."),
    "/usr/local/cuda",
  ];
  for (const home of homes) {
    const found = home === undefined || home === "" ? null : await toolkitIn(home);
    if (found?.version.startsWith("13.")) return found;
  }
  const packages = await ensureWheels(
    "cuda",
    "requirements-cuda.txt",
    "nvcc (about 105 MB; an installed CUDA 13 toolkit is used where CUDA_HOME names one)",
  );
  const home = join(packages, "nvidia", "cu13");
  for (const bin of [join(home, "bin"), join(home, "nvvm", "bin")]) {
    await run(["chmod", "-R", "+x", bin]);
  }
  const found = await toolkitIn(home);
  if (found === null) throw new Error(`${home}: the wheels of requirements-cuda.txt hold no usable nvcc`);
  return found;
}

async function toolkitIn(home: string): Promise<CudaToolkit | null> {
  const nvcc = join(home, "bin", "nvcc");
  const runtime = ["lib64", "lib", "targets/x86_64-linux/lib"]
    .map((lib) => join(home, lib, "libcudart_static.a"))
    .find((path) => existsSync(path));
  if (!existsSync(nvcc) || runtime === undefined) return null;
  const version = /release (\d+\.\d+)/.exec(await run([nvcc, "--version"]))?.[1];
  const cuobjdump = join(home, "bin", "cuobjdump");
  return version === undefined
    ? null
    : { nvcc, cuobjdump: existsSync(cuobjdump) ? cuobjdump : Bun.which("cuobjdump"), runtime, version };
}
