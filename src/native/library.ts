// Loads the native library from memory. Called only by commands that compute.

import { CString, dlopen, FFIType, linkSymbols, type Pointer, ptr } from "bun:ffi";
import { statSync } from "node:fs";
import { isAbsolute } from "node:path";
import { cpuLibraries, cudaLibrary, runtimeLibraries } from "#embedded";
import { NeftuneError, UsageError } from "../errors.ts";
import { type Argument, bindings, type NativeLibrary } from "./bindings.ts";
import { type CpuIsa, chooseIsa, dnnlCeiling, usesAmx } from "./cpu-isa.ts";
import { loadFromMemory, openLibc, openLoader, zeroTerminated } from "./from-memory.ts";
import { isaCeiling } from "./isa-ceiling.ts";
import { probe } from "./probe.ts";

const RTLD_NOW = 2;
const SIG_SETMASK = 2;

/** Makes another function of a native one. */
type Wrap = <T extends (...args: Argument[]) => number>(call: T) => T;

/**
 * Wraps native functions so that signals wait until they return. A signal in the middle of oneDNN's AVX-512 code was
 * seen to corrupt memory (test/native/signals.test.ts); presumably it keeps data below the stack pointer, where the
 * kernel puts a handler's frame. Threads that native code starts inherit the mask. Faults (SIGSEGV and its like) are
 * never held back.
 */
function holdBackSignals(): Wrap {
  const { sigprocmask } = dlopen("libc.so.6", {
    sigprocmask: { args: [FFIType.i32, FFIType.ptr, FFIType.ptr], returns: FFIType.i32 },
  }).symbols;
  const faults = [4, 5, 6, 7, 8, 11].reduce((bits, signal) => bits | (1n << BigInt(signal - 1)), 0n);
  const held = new BigUint64Array(16); // sigset_t
  held[0] = 0xffffffffffffffffn & ~faults;
  const before = new BigUint64Array(16);
  return (call) =>
    ((...args) => {
      sigprocmask(SIG_SETMASK, held, before);
      try {
        return call(...args);
      } finally {
        sigprocmask(SIG_SETMASK, before, null);
      }
    }) as typeof call;
}

function link(handle: Pointer, loader: ReturnType<typeof openLoader>, hold: Wrap): NativeLibrary {
  const symbol = (name: string): Pointer => {
    const address = loader.dlsym(handle, ptr(zeroTerminated(name)));
    if (address === null)
      throw new NeftuneError("native", `the native library has no ${name}: rebuild it (npm run build)`);
    return address as Pointer;
  };
  const table = Object.fromEntries(
    Object.entries(bindings).map(([name, args]) => [
      name,
      { args: [...args], returns: "i32" as const, ptr: symbol(name) },
    ]),
  );
  const linked = linkSymbols(table).symbols as unknown as NativeLibrary["functions"];
  const functions = Object.fromEntries(
    Object.entries(linked).map(([name, call]) => [name, hold(call)]),
  ) as NativeLibrary["functions"];
  const errorOf = linkSymbols({
    nt_last_error: { args: [], returns: FFIType.ptr, ptr: symbol("nt_last_error") },
  }).symbols.nt_last_error;
  return {
    functions,
    lastError: () => {
      const text = errorOf();
      return text === null ? "" : new CString(text).toString();
    },
    selected: 0,
  };
}

// What is loaded stays loaded: libraries cannot be closed safely, and each process needs them once.
const loaded = new Map<string, NativeLibrary>();
let runtimeLoaded = false;

/** Whether the CPU's instruction for products of pairs of bf16 is worth using, as the library for it has timed. */
const pairsAreFaster = (library: NativeLibrary) =>
  probe<{ pairs_are_faster: boolean }>(library).pairs_are_faster;

/**
 * Loads the CPU backend built for this machine's best instruction set (or NEFTUNE_CPU_ISA's). That for pairs of bf16 is not
 * the best where it can only be used without AMX and floats are multiplied faster.
 */
export function loadCpuLibrary(env: Record<string, string | undefined> = process.env): NativeLibrary {
  const forced = env.NEFTUNE_CPU_ISA;
  const isa = chooseIsa(forced);
  const library = loadCpuVariant(isa);
  if (forced || isa !== "avx512_bf16" || usesAmx(env) || pairsAreFaster(library)) return library;
  return loadCpuVariant("avx512");
}

function loadCpuVariant(isa: CpuIsa): NativeLibrary {
  const known = loaded.get(isa);
  if (known !== undefined) return known;
  const libc = openLibc();
  const loader = openLoader();
  if (!runtimeLoaded) {
    runtimeLoaded = true;
    const ceiling = dnnlCeiling[isa];
    const own = isaCeiling(process.env)?.kind ?? "unknown";
    if (process.env.NEFTUNE_CPU_ISA && ceiling !== undefined && own === "unknown")
      libc.setenv(ptr(zeroTerminated("ONEDNN_MAX_CPU_ISA")), ptr(zeroTerminated(ceiling)), 1);
    // OpenBLAS would start threads of its own while it is loaded; the kernels' threads call it.
    if (isa === "neon") libc.setenv(ptr(zeroTerminated("OPENBLAS_NUM_THREADS")), ptr(zeroTerminated("1")), 1);
    for (const [name, file] of runtimeLibraries) loadFromMemory(name, file, libc, loader);
  }
  const library = link(
    loadFromMemory(`libneftune-${isa}.so`, cpuLibraries[isa]!, libc, loader),
    loader,
    holdBackSignals(),
  );
  loaded.set(isa, library);
  // The unpacked libraries are garbage now, 60 MB of it.
  Bun.gc(true);
  return library;
}

/** Whether this build has the CUDA backend: a build without nvcc embeds an empty file in its place. */
export const hasCudaLibrary = (env: Record<string, string | undefined> = process.env): boolean =>
  Boolean(env.NEFTUNE_CUDA_LIBRARY) || statSync(cudaLibrary).size > 0;

/**
 * Loads the CUDA backend: the embedded one, or the file that NEFTUNE_CUDA_LIBRARY names (a build of the same kernels
 * for the emulator, say). Its own dependencies are checked when a device is opened, not here.
 */
export function loadCudaLibrary(env: Record<string, string | undefined> = process.env): NativeLibrary {
  const path = env.NEFTUNE_CUDA_LIBRARY || "";
  const known = loaded.get(`cuda ${path}`);
  if (known !== undefined) return known;
  const libc = openLibc();
  const loader = openLoader();
  let handle: Pointer;
  if (path !== "") {
    if (!isAbsolute(path)) throw new UsageError(`NEFTUNE_CUDA_LIBRARY=${path}: expected an absolute path`);
    const opened = loader.dlopen(ptr(zeroTerminated(path)), RTLD_NOW);
    if (opened === null)
      throw new NeftuneError("native", `NEFTUNE_CUDA_LIBRARY cannot be loaded: ${loader.dlerror()}`);
    handle = opened as Pointer;
  } else {
    if (!hasCudaLibrary(env))
      throw new NeftuneError(
        "no_device",
        "this build of neftune has no CUDA backend (npm run build makes one with it)",
      );
    handle = loadFromMemory("libneftune-cuda.so", cudaLibrary, libc, loader);
  }
  const library = link(handle, loader, (call) => call);
  loaded.set(`cuda ${path}`, library);
  Bun.gc(true);
  return library;
}
