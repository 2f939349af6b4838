// Files read and written whole or not at all; what the operating system reports becomes a NeftuneError that
// names the path and the remedy.
import {
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  openSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { NeftuneError, UsageError } from "../errors.ts";
import { finish, type Steps } from "../steps.ts";

// Linux moves at most 2^31 - 4096 bytes in one call.
export const MAX_TRANSFER_BYTES = 1 << 30;

const REASONS = new Map([
  ["ENOENT", "no such file or folder; check the path"],
  ["EACCES", "permission denied; check who owns it and its mode"],
  ["EPERM", "not permitted; check who owns it and its mode"],
  ["EISDIR", "it is a folder; expected a file"],
  ["ENOTDIR", "a part of the path is a file; expected a folder"],
  ["ENOSPC", "no space left on the device; free some, or choose another place"],
  ["EDQUOT", "disk quota exceeded; free some, or choose another place"],
  [
    "EFBIG",
    "larger than the file system or the limit on file sizes allows; raise the limit (ulimit -f), or choose another place",
  ],
  ["EROFS", "the file system is read-only; choose another place"],
  ["EMFILE", "too many open files; raise the limit (ulimit -n)"],
  ["ENAMETOOLONG", "the name is too long"],
]);

/**
 * Turns a failure of the operating system into a NeftuneError that says what cannot be `done` with the path ("read",
 * "written"); returns any other error as it is.
 */
export function ioError(path: string, done: string, error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof NeftuneError) return error;
  const code = (error as NodeJS.ErrnoException).code;
  if (code === undefined) return error;
  const reason = REASONS.get(code);
  return new NeftuneError(
    "io",
    `${path} cannot be ${done}: ${reason ? `${reason} (${code})` : error.message}`,
    {
      cause: error,
    },
  );
}

/** Throws UsageError where `path`, an --output, is a link to what is not there. */
export function expectNoDanglingLink(path: string): void {
  try {
    if (existsSync(path) || !lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink()) return;
  } catch (error) {
    throw ioError(path, "used as --output", error);
  }
  throw new UsageError(
    `--output ${path} is a link to ${readlinkSync(path)}, which does not exist; remove the link or choose another name`,
  );
}

/** Writes all of `bytes` at the descriptor's position. */
export function writeAll(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) {
    at += writeSync(fd, bytes, at, Math.min(bytes.length - at, MAX_TRANSFER_BYTES));
  }
}

/** Writes all of `bytes` at `position`. */
export function writeAllAt(fd: number, bytes: Uint8Array, position: number): void {
  for (let at = 0; at < bytes.length; ) {
    at += writeSync(fd, bytes, at, Math.min(bytes.length - at, MAX_TRANSFER_BYTES), position + at);
  }
}

/**
 * Lets `write` fill a file beside `path`, then flushes it and moves it there: `path` holds either what it held
 * before or all of the new contents, also after a power cut. On any error the file beside is removed.
 */
export function writeFileAtomically(path: string, write: (fd: number) => void): void {
  finish(
    writeFileInSteps(path, function* (fd) {
      write(fd);
      yield;
    }),
  );
}

/** Where this process fills a file that will be `path`. */
export const partialPath = (path: string) => join(dirname(path), `.${basename(path)}.${process.pid}.partial`);

/** `writeFileAtomically` in the steps of `write`; left before its end, it removes the file beside `path`. */
export function* writeFileInSteps(path: string, write: (fd: number) => Steps<void>): Steps<void> {
  const partial = partialPath(path);
  let done = false;
  try {
    // Made anew: what has this name may be a link to a file of someone else's.
    rmSync(partial, { force: true });
    const fd = openSync(partial, "wx", 0o666);
    try {
      yield* write(fd);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(partial, path);
    done = true;
    flushFolder(dirname(path));
  } catch (error) {
    throw ioError(path, "written", error);
  } finally {
    if (!done) removePartial(partial);
  }
}

/** Best effort: a failure here must not hide the one that led to it. */
function removePartial(partial: string): void {
  try {
    rmSync(partial, { force: true });
  } catch {
    // Such as ENOTDIR, where the file could not be made either.
  }
}

/** The text of a file, as UTF-8. Throws NeftuneError ("io"). */
export function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw ioError(path, "read", error);
  }
}

/** The first bytes of a file, at most `length`. */
export function readStart(path: string, length: number): Uint8Array {
  try {
    const fd = openSync(path, "r");
    try {
      const bytes = new Uint8Array(length);
      return bytes.subarray(0, readSync(fd, bytes, 0, length, 0));
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw ioError(path, "read", error);
  }
}

/** Copies a file's contents, whole or not at all; its mode is a new file's, not the source's. */
export function copyFileAtomically(from: string, to: string): void {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(from);
  } catch (error) {
    throw ioError(from, "read", error);
  }
  writeFileAtomically(to, (fd) => writeAll(fd, bytes));
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
