// One process at a time to a file of the cache. huggingface_hub takes the same locks (flock on .locks/REPO/ETAG.lock), so
// that a Python program and neftune wait for each other. The kernel lets go of the lock of a process that dies.

import { dlopen, FFIType, type Pointer, read } from "bun:ffi";
import { closeSync, fstatSync, mkdirSync, openSync } from "node:fs";
import { dirname } from "node:path";
import { ioError } from "../io.ts";

const LOCK_EX = 2;
const LOCK_NB = 4;
const EINTR = 4;
const EAGAIN = 11;
const POLL_MILLISECONDS = 100;

function openLibc() {
  return dlopen("libc.so.6", {
    flock: { args: [FFIType.i32, FFIType.i32], returns: FFIType.i32 },
    __errno_location: { args: [], returns: FFIType.ptr },
  });
}

export class FileLock {
  readonly #fd: number;
  /** False where the file system has no locks: then nothing keeps others out. */
  readonly exclusive: boolean;

  private constructor(fd: number, exclusive: boolean) {
    this.#fd = fd;
    this.exclusive = exclusive;
  }

  /**
   * Waits for the lock and takes it; null once `signal` aborts. `onWait` is called once, where another process has it.
   * Throws NeftuneError where the lock's file cannot be made.
   */
  static async acquire(path: string, signal: AbortSignal, onWait: () => void): Promise<FileLock | null> {
    const libc = openLibc();
    let fd: number | null = null;
    let waited = false;
    try {
      mkdirSync(dirname(path), { recursive: true });
      while (!signal.aborted) {
        // Group-writable, as huggingface_hub makes them, for caches that users share.
        fd ??= openSync(path, "a", 0o664);
        if (libc.symbols.flock(fd, LOCK_EX | LOCK_NB) === 0) {
          // Some versions of huggingface_hub remove the file as they let go: then this is a lock on nothing.
          if (fstatSync(fd).nlink > 0) return takeOver(new FileLock(fd, true));
          closeSync(fd);
          fd = null;
          continue;
        }
        const errno = read.i32(libc.symbols.__errno_location() as Pointer, 0);
        if (errno !== EAGAIN && errno !== EINTR) return takeOver(new FileLock(fd, false));
        if (!waited) onWait();
        waited = true;
        await Bun.sleep(POLL_MILLISECONDS);
      }
      return null;
    } catch (error) {
      throw ioError(path, "locked", error);
    } finally {
      if (fd !== null) closeSync(fd);
      libc.close();
    }

    /** From here on the descriptor is the lock's. */
    function takeOver(lock: FileLock): FileLock {
      fd = null;
      return lock;
    }
  }

  release(): void {
    closeSync(this.#fd);
  }
}
