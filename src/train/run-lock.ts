// OUTPUT/.neftune.lock: which process writes to the folder of a run. A lock of a process that is gone counts for
// nothing, so that a killed run can be resumed at once.

import {
  existsSync,
  linkSync,
  lstatSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { NeftuneError } from "../errors.ts";
import { ioError } from "../formats/io.ts";

export const LOCK_FILE = ".neftune.lock";
/** What a process that is killed while it takes the lock, or removes a stale one, leaves. */
const DRAFT = /^\.neftune\.lock\.\d+\.(new|partial)$/;
const ATTEMPTS = 10;

interface Holder {
  pid: number;
  host: string;
  /** When the process began, in clock ticks since the machine did: tells it from a later one of the same id. */
  start: string | null;
}

export class RunLock {
  readonly #folder: string;
  readonly #path: string;
  readonly #text: string;
  /** Of the lock's file: a copy of it elsewhere is not a lock. */
  readonly #inode: string | null;

  private constructor(folder: string, path: string, text: string) {
    this.#folder = folder;
    this.#path = path;
    this.#text = text;
    this.#inode = inodeOf(path);
  }

  /** Takes the lock of `folder`. Throws NeftuneError (code "busy") and changes nothing where a process holds it. */
  static acquire(folder: string): RunLock {
    const path = join(folder, LOCK_FILE);
    const holder: Holder = { pid: process.pid, host: hostname(), start: processStart(process.pid) };
    const text = `${JSON.stringify(holder)}\n`;
    try {
      for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
        if (create(path, text)) return new RunLock(folder, path, text);
        const stale = RunLock.expectFree(folder);
        if (stale !== null) removeStale(path, stale);
      }
    } catch (error) {
      throw ioError(path, "locked", error);
    }
    throw busy(folder, "several processes at once");
  }

  /** Whether what is in a folder has our mark: a lock, in use, left behind, or about to be made or removed. */
  static marks(folder: string): boolean {
    const names = readdirSync(folder).filter((name) => name === LOCK_FILE || DRAFT.test(name));
    if (names.length > 0 && names.length === readdirSync(folder).length) return true;
    return names.some((name) => {
      const path = join(folder, name);
      return lstatSync(path).isFile() && parseHolder(readIfThere(path) ?? "") !== null;
    });
  }

  /** Throws NeftuneError (code "busy") where a process holds the lock. Returns a stale lock's text; null: no lock. */
  static expectFree(folder: string): string | null {
    const path = join(folder, LOCK_FILE);
    const text = readIfThere(path);
    if (text === null) return null;
    const holder = parseHolder(text);
    if (holder === null) return text; // torn by a crash of the machine: its process is gone
    if (holder.host !== hostname()) {
      throw busy(
        folder,
        `process ${holder.pid} on the machine ${holder.host}`,
        `; if that one is gone, remove ${path}`,
      );
    }
    if (isRunning(holder)) throw busy(folder, `process ${holder.pid}`);
    return text;
  }

  /** Whether the folder's name still stands for the folder that was locked. */
  get isHeld(): boolean {
    return inodeOf(this.#path) === this.#inode && readIfThere(this.#path) === this.#text;
  }

  /** To call before every write. Throws NeftuneError (code "moved") where the folder's name stands for another one now. */
  expectHeld(): void {
    if (this.isHeld) return;
    throw new NeftuneError(
      "moved",
      `${this.#folder} was moved, removed or replaced while this process was writing to it (its lock, ${LOCK_FILE}, is gone). It stops here and writes nothing more; what it wrote so far is in the folder, wherever that is now`,
    );
  }

  /** Removes the lock, unless a person did and another process has taken it since. */
  release(): void {
    if (this.isHeld) rmSync(this.#path, { force: true });
  }
}

function busy(folder: string, who: string, more = ""): NeftuneError {
  return new NeftuneError(
    "busy",
    `--output ${folder} is in use by ${who}; wait until that run ends, or give another --output${more}`,
  );
}

/** The lock appears with its text in it, or not at all: a process killed in between leaves no empty lock. False where there is one already. */
function create(path: string, text: string): boolean {
  const draft = `${path}.${process.pid}.new`;
  try {
    rmSync(draft, { force: true });
    writeFileSync(draft, text, { flag: "wx" }); // never through a link
    linkSync(draft, path);
    return true;
  } catch (error) {
    if (isCode(error, "EEXIST")) return false;
    throw error;
  } finally {
    rmSync(draft, { force: true });
  }
}

/** Of several processes that find one stale lock a single one removes it: who moved another's new lock puts it back. */
function removeStale(path: string, stale: string): void {
  const aside = `${path}.${process.pid}.partial`;
  try {
    renameSync(path, aside);
  } catch (error) {
    if (isCode(error, "ENOENT")) return;
    throw error;
  }
  if (readIfThere(aside) !== stale && !existsSync(path)) linkSync(aside, path);
  rmSync(aside, { force: true });
}

function parseHolder(text: string): Holder | null {
  try {
    const { pid, host, start } = JSON.parse(text) as Partial<Holder>;
    if (!Number.isSafeInteger(pid) || typeof host !== "string") return null;
    return { pid: pid!, host, start: typeof start === "string" ? start : null };
  } catch {
    return null;
  }
}

function isRunning({ pid, start }: Holder): boolean {
  const now = processStart(pid);
  if (now !== null) return start === null || now === start;
  if (existsSync(`/proc/${pid}/stat`)) return false; // it ended, and its parent has not asked how
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return !isCode(error, "ESRCH"); // another user's process may not be asked
  }
}

/** Field 22 of /proc/PID/stat (see proc_pid_stat(5)); null where it cannot be read or the process has ended. */
function processStart(pid: number): string | null {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return null;
  }
  // Field 2, the name in parentheses, may hold anything.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const hasEnded = fields[0] === "Z" || fields[0] === "X";
  return hasEnded ? null : (fields[19] ?? null);
}

/** Tells a file from all others on this machine; null where there is none. A link is not followed. */
function inodeOf(path: string): string | null {
  try {
    const { dev, ino } = lstatSync(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch (error) {
    if (isCode(error, "ENOENT") || isCode(error, "ENOTDIR")) return null;
    throw ioError(path, "read", error);
  }
}

function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (isCode(error, "ENOENT") || isCode(error, "ENOTDIR")) return null;
    throw ioError(path, "read", error);
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && (error as NodeJS.ErrnoException).code === code;
}
