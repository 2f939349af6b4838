// A model's folder that appears whole or not at all: it is filled under another name, beside its place, and renamed.

import { existsSync, mkdirSync, readdirSync, renameSync, rmdirSync, rmSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { InterruptedError, UsageError } from "../errors.ts";
import { flushFolder, ioError } from "../formats/io.ts";
import { finishUnlessAborted, type Steps } from "../steps.ts";
import { LOCK_FILE, RunLock } from "../train/run-lock.ts";

/** Throws UsageError where a new folder cannot have this name. */
export function expectNewFolder(path: string): void {
  try {
    if (!existsSync(path) || readdirSync(path).length === 0) return;
  } catch (error) {
    throw ioError(path, "use as --output", error);
  }
  throw new UsageError(`--output ${path}: is there and not empty; choose another folder`);
}

/**
 * Makes the folder `path`, which is not there or empty, of what `write` puts into the folder it is given. On an error, and
 * when `signal` aborts, nothing of it stays; what a killed process has left of it goes first. `name` is the command's.
 */
export async function makeFolder<T>(
  path: string,
  name: string,
  signal: AbortSignal,
  write: (dir: string) => Steps<T>,
): Promise<T> {
  expectNewFolder(path);
  const whole = resolve(path);
  const partial = join(dirname(whole), `.${basename(whole)}.partial`);
  let made: string | undefined;
  let lock: RunLock | null = null;
  try {
    made = mkdirSync(partial, { recursive: true });
    lock = RunLock.acquire(partial);
    for (const left of readdirSync(partial))
      if (left !== LOCK_FILE) rmSync(join(partial, left), { recursive: true, force: true });
    const result = await finishUnlessAborted(
      (function* () {
        return { value: yield* write(partial) };
      })(),
      signal,
    );
    if (result === null) throw new InterruptedError(`${name} was stopped; it left nothing`);
    expectNewFolder(path);
    // The lock goes along: without it another process would empty the folder before it has its name.
    renameSync(partial, whole);
    lock = null;
    rmSync(join(whole, LOCK_FILE));
    flushFolder(dirname(whole));
    return result.value;
  } catch (error) {
    // Without the lock the folder is another process's.
    if (lock !== null) removeMade(partial, made);
    throw ioError(path, "use as --output", error);
  }
}

/** Removes a folder, and of those above it the ones that were made with it, `first` on top, as far as they are empty. */
function removeMade(folder: string, first: string | undefined): void {
  rmSync(folder, { recursive: true, force: true });
  if (first === undefined) return;
  for (let above = dirname(folder); above.startsWith(first); above = dirname(above)) {
    try {
      rmdirSync(above);
    } catch {
      return;
    }
  }
}
