// Libraries that are embedded in the executable, opened from memory: each goes into a memfd, never into the working
// directory or a temporary folder.

import { dlopen, FFIType, type Pointer, ptr } from "bun:ffi";
import { readFileSync, writeSync } from "node:fs";
import { NeftuneError } from "../errors.ts";
import { formatBytes } from "../numbers.ts";

const RTLD_NOW = 2;
const MFD_CLOEXEC = 1;

export const zeroTerminated = (text: string) => Buffer.from(`${text}\0`);

export function openLibc() {
  return dlopen("libc.so.6", {
    memfd_create: { args: [FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
    setenv: { args: [FFIType.ptr, FFIType.ptr, FFIType.i32], returns: FFIType.i32 },
  }).symbols;
}

export function openLoader() {
  const symbols = {
    dlopen: { args: [FFIType.ptr, FFIType.i32], returns: FFIType.ptr },
    dlsym: { args: [FFIType.ptr, FFIType.ptr], returns: FFIType.ptr },
    dlerror: { args: [], returns: FFIType.cstring },
  } as const;
  try {
    return dlopen("libc.so.6", symbols).symbols;
  } catch {
    return dlopen("libdl.so.2", symbols).symbols; // glibc before 2.34
  }
}

/** Bytes that a file may have; null: no limit. `limits`: what /proc/PID/limits holds. */
function fileSizeLimit(limits: string): number | null {
  const soft = /^Max file size\s+(\d+)\s/m.exec(limits)?.[1];
  return soft === undefined ? null : Number(soft);
}

/** Why a library of `bytes` could not be written into memory, and what to do. `limits`: what /proc/self/limits holds. */
export function unpackError(
  name: string,
  bytes: number,
  cause: unknown,
  limits = readFileSync("/proc/self/limits", "utf8"),
): NeftuneError {
  const what = `${name} (${formatBytes(bytes)}) cannot be unpacked into memory`;
  const { code, message } = cause as NodeJS.ErrnoException;
  const limit = fileSizeLimit(limits);
  const reason =
    code === "EFBIG" && limit !== null
      ? `files, including those in memory, are limited to ${formatBytes(limit)} (ulimit -f ${Math.floor(limit / 1024)}); remove the limit with ulimit -f unlimited`
      : code === "ENOSPC" || code === "ENOMEM"
        ? `there is too little memory left (${code}); free some, or raise the limit of the container or job`
        : message;
  return new NeftuneError("native", `${what}: ${reason}`, { cause });
}

/**
 * Writes the library into a memfd and opens it, its symbols for those alone that need it by name: cuBLASLt and NCCL must not
 * find ours in place of the system's. The descriptor stays open: glibc knows a library by its path, and a reused number
 * would name another.
 */
export function loadFromMemory(
  name: string,
  file: string,
  libc: ReturnType<typeof openLibc>,
  loader: ReturnType<typeof openLoader>,
): Pointer {
  const bytes = Bun.zstdDecompressSync(readFileSync(file));
  const descriptor = libc.memfd_create(ptr(zeroTerminated(name)), MFD_CLOEXEC);
  if (descriptor < 0)
    throw new NeftuneError("native", `${name}: the kernel gives no memfd (Linux 3.17 or later is needed)`);
  try {
    for (let written = 0; written < bytes.length; ) written += writeSync(descriptor, bytes, written);
  } catch (cause) {
    throw unpackError(name, bytes.length, cause);
  }
  const handle = loader.dlopen(ptr(zeroTerminated(`/proc/self/fd/${descriptor}`)), RTLD_NOW);
  if (handle === null) {
    throw new NeftuneError(
      "native",
      `${name} cannot be loaded: ${loader.dlerror()} (glibc 2.28 or later and a mounted /proc are needed)`,
    );
  }
  return handle as Pointer;
}
