// Files read and written whole or not at all; what the operating system reports becomes a NeftuneError that
// names the path and the remedy.
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { NeftuneError } from "../errors.ts";

// Linux moves at most 2^31 - 4096 bytes in one call.
export const MAX_TRANSFER_BYTES = 1 << 30;

const REASONS = new Map([
  ["ENOENT", "no such file or folder; check the path"],
  ["EACCES", "permission denied; check who owns it and its mode"],
  ["EPERM", "not permitted; check who owns it and its mode"],
  ["EISDIR", "is a folder; expected a file"],
  ["ENOTDIR", "a part of the path is a file; expected a folder"],
  ["ENOSPC", "no space left on the device; free some, or choose another place"],
  ["EDQUOT", "disk quota exceeded; free some, or choose another place"],
  ["EFBIG", "larger than the file system or the limit on file sizes (ulimit -f) allows"],
  ["EROFS", "the file system is read-only; choose another place"],
  ["EMFILE", "too many open files; raise the limit (ulimit -n)"],
  ["ENAMETOOLONG", "the name is too long"],
]);

/** Turns a failure of the operating system into a NeftuneError; returns any other error as it is. */
export function ioError(path: string, action: string, error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof NeftuneError) return error;
  const code = (error as NodeJS.ErrnoException).code;
  if (code === undefined) return error;
  const reason = REASONS.get(code);
  return new NeftuneError(
    "io",
    `${path}: cannot ${action}: ${reason ? `${reason} (${code})` : error.message}`,
    {
      cause: error,
    },
  );
}

/** Writes all of `bytes` at the descriptor's position. */
export function writeAll(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) {
    at += writeSync(fd, bytes, at, Math.min(bytes.length - at, MAX_TRANSFER_BYTES));
  }
}

/**
 * Lets `write` fill a file beside `path`, then flushes it and moves it there: `path` holds either what it held
 * before or all of the new contents, also after a power cut. On any error the file beside is removed.
 */
export function writeFileAtomically(path: string, write: (fd: number) => void): void {
  const partial = join(dirname(path), `.${basename(path)}.${process.pid}.partial`);
  try {
    const fd = openSync(partial, "w", 0o666);
    try {
      write(fd);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(partial, path);
    flushFolder(dirname(path));
  } catch (error) {
    rmSync(partial, { force: true });
    throw ioError(path, "write", error);
  }
}

/** The same for a text. */
export function writeTextAtomically(path: string, text: string): void {
  writeFileAtomically(path, (fd) => writeAll(fd, new TextEncoder().encode(text)));
}

/** Makes a rename inside `folder` last; some network file systems cannot, and need not, flush a folder. */
export function flushFolder(folder: string): void {
  const fd = openSync(folder, "r");
  try {
    fsyncSync(fd);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== "EINVAL" && code !== "ENOTSUP") throw error;
  } finally {
    closeSync(fd);
  }
}
