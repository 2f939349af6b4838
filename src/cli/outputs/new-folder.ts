// A model's folder that appears whole or not at all: it is filled under another name, beside its place, and renamed.
//
// That other name, .NAME.partial, may be there already: left by a process that was killed, in use by another, or
// something else altogether. Only what holds our lock, or nothing, is ours to fill and to empty; links are never followed.

import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { InterruptedError, NeftuneError, UsageError } from "../../errors.ts";
import { expectNoDanglingLink, flushFolder, ioError } from "../../formats/io.ts";
import { finishUnlessAborted, type Steps } from "../../steps.ts";
import { LOCK_FILE, RunLock } from "../../train/run-lock.ts";
import type { Context } from "../command.ts";

/** Throws UsageError where a new folder cannot have this name. */
export function expectNewFolder(path: string): void {
  expectNoDanglingLink(path);
  try {
    if (!existsSync(path) || readdirSync(path).length === 0) return;
  } catch (error) {
    throw ioError(path, "used as --output", error);
  }
  throw new UsageError(`--output ${path} already exists and is not empty; choose another folder`);
}

/**
 * Makes the folder `path`, which is not there or empty, of what `write` puts into the folder it is given. On an error, and
 * when the command is stopped, nothing of it stays; what a killed process has left of it goes first. `name` is the command's.
 */
export async function makeFolder<T>(
  path: string,
  name: string,
  context: Pick<Context, "signal" | "finishFirst">,
  write: (dir: string) => Steps<T>,
): Promise<T> {
  expectNewFolder(path);
  let partial: PartialFolder | null = null;
  try {
    // A link to an empty folder stays one; the folder it names is filled.
    const whole = existsSync(path) ? realpathSync(path) : resolve(path);
    const part = PartialFolder.open(join(dirname(whole), `.${basename(whole)}.partial`));
    partial = part;
    context.finishFirst?.(); // what there is of it has to be removed
    const result = await finishUnlessAborted(whileHeld(part.lock, write(part.path)), context.signal);
    if (result === null) throw new InterruptedError(`${name} was stopped; it left nothing`);
    expectNewFolder(path);
    partial = null;
    part.moveTo(whole);
    return result.value;
  } catch (error) {
    partial?.remove();
    throw ioError(path, "used as --output", error);
  }
}

/** The steps, the lock compared before each of them. */
function* whileHeld<T>(lock: RunLock, steps: Steps<T>): Steps<{ value: T }> {
  try {
    for (;;) {
      lock.expectHeld();
      const { done, value } = steps.next();
      if (done === true) return { value };
      yield;
    }
  } finally {
    steps.return(undefined as never);
  }
}

class PartialFolder {
  readonly path: string;
  readonly lock: RunLock;
  /** The topmost folder that was made for it; undefined: it was there. */
  readonly #made: string | undefined;

  private constructor(path: string, lock: RunLock, made: string | undefined) {
    this.path = path;
    this.lock = lock;
    this.#made = made;
  }

  /** Makes the folder, or takes over what a killed process left of it, locked and empty. */
  static open(path: string): PartialFolder {
    expectOurs(path);
    const made = mkdirSync(path, { recursive: true });
    expectOurs(path);
    const lock = RunLock.acquire(path);
    for (const left of readdirSync(path))
      if (left !== LOCK_FILE) rmSync(join(path, left), { recursive: true, force: true });
    return new PartialFolder(path, lock, made);
  }

  /** Gives it its name. The lock goes along: without it another process would empty the folder before it has that name. */
  moveTo(whole: string): void {
    this.lock.expectHeld();
    renameSync(this.path, whole);
    rmSync(join(whole, LOCK_FILE));
    flushFolder(dirname(whole));
  }

  /** Removes it, if it is still ours, and of the folders made for it those that are empty. */
  remove(): void {
    if (!this.lock.isHeld) return;
    rmSync(this.path, { recursive: true, force: true });
    if (this.#made === undefined) return;
    for (let above = dirname(this.path); above.startsWith(this.#made); above = dirname(above)) {
      try {
        rmdirSync(above);
      } catch {
        return;
      }
    }
  }
}

/** Throws NeftuneError unless nothing has this name, or a folder that is empty or locked by neftune, now or before. */
function expectOurs(path: string): void {
  const status = lstatSync(path, { throwIfNoEntry: false });
  if (status === undefined) return;
  const what = status.isSymbolicLink()
    ? "is a link"
    : !status.isDirectory()
      ? "is a file"
      : readdirSync(path).length > 0 && !RunLock.marks(path)
        ? "holds files that are not neftune's"
        : null;
  if (what === null) return;
  throw new NeftuneError(
    "io",
    `${path} ${what}; neftune fills a folder of this name before it gets its own. Rename or remove it, or choose another --output`,
  );
}
