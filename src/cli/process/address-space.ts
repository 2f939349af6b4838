// A limit on address space (ulimit -v). JavaScript's engine reserves gigabytes of addresses that it never fills, so a limit
// that would do for the memory in use makes it fail, in its own words or without any.

import { readFileSync } from "node:fs";
import { NeftuneError } from "../../errors.ts";
import { formatBytes } from "../terminal/format.ts";

/** The least that commands that compute need, without any model. Measured on two processors. */
const LEAST = 3 * 2 ** 30;

/** Commands that need less. */
const frugal: ReadonlySet<string> = new Set(["preview", "models", "datasets", "analyze", "inspect"]);

/** Bytes; null: no limit. `limits`: what /proc/PID/limits holds. */
export function addressSpaceLimit(limits = readLimits()): number | null {
  const soft = /^Max address space\s+(\d+)\s/m.exec(limits)?.[1];
  return soft === undefined ? null : Number(soft);
}

function readLimits(): string {
  try {
    return readFileSync("/proc/self/limits", "utf8");
  } catch {
    return "";
  }
}

/** Throws NeftuneError where the limit is too low for the command even to begin. */
export function expectAddressSpace(command: string, limit = addressSpaceLimit()): void {
  if (limit === null || limit >= LEAST || frugal.has(command)) return;
  throw new NeftuneError(
    "limit",
    `address space is limited to ${formatBytes(limit)} (ulimit -v ${Math.floor(limit / 1024)}); ${command} needs ${formatBytes(LEAST)} and the model's size. Raise the limit, or remove it with ulimit -v unlimited`,
  );
}

/** What to add to an error that a limit on address space may have caused; "" where it cannot have. */
export function limitHint(error: unknown, limit = addressSpaceLimit()): string {
  if (limit === null) return "";
  if (error instanceof NeftuneError && !["native", "out-of-memory"].includes(error.code)) return "";
  return `; address space is limited to ${formatBytes(limit)} (ulimit -v), which may be the cause: raise or remove the limit`;
}
