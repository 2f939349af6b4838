// A file that appears whole or not at all, where none was.

import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { InterruptedError, UsageError } from "../../errors.ts";
import { expectNoDanglingLink } from "../../formats/io.ts";
import { finishUnlessAborted, type Steps } from "../../steps.ts";
import type { Context } from "../command.ts";

/** Throws UsageError where a new file cannot have this name. */
export function expectNewFile(path: string): void {
  expectNoDanglingLink(path);
  if (existsSync(path)) throw new UsageError(`--output ${path} already exists; choose another name`);
}

/**
 * Runs the steps that write `path` through writeFileInSteps, and removes first what a killed process has left of the same
 * file. On an error, and when the command is stopped, nothing of it stays. `name` is the command's.
 */
export async function makeFile(
  path: string,
  name: string,
  context: Pick<Context, "signal" | "finishFirst">,
  steps: Steps<void>,
): Promise<void> {
  removeAbandoned(path);
  context.finishFirst?.(); // what there is of it has to be removed
  const done = await finishUnlessAborted(untilTheEnd(steps), context.signal);
  if (done === null) throw new InterruptedError(`${name} was stopped; it left nothing`);
}

function* untilTheEnd(steps: Steps<void>): Steps<true> {
  yield* steps;
  return true;
}

/** Another machine may write a file of this name on the same disk: then its time changes every few seconds. */
const ABANDONED_MILLISECONDS = 60_000;

/** Removes gigabytes that nobody can use: partial files (writeFileInSteps) of processes that are gone. */
function removeAbandoned(path: string): void {
  const folder = dirname(resolve(path));
  const prefix = `.${basename(path)}.`;
  if (!existsSync(folder)) return; // told when the file is made
  for (const name of readdirSync(folder)) {
    const pid = name.startsWith(prefix) ? /^(\d+)\.partial$/.exec(name.slice(prefix.length))?.[1] : undefined;
    if (pid === undefined || isRunning(Number(pid))) continue;
    const written = statSync(join(folder, name), { throwIfNoEntry: false })?.mtimeMs ?? 0;
    if (Date.now() - written > ABANDONED_MILLISECONDS) rmSync(join(folder, name), { force: true });
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}
