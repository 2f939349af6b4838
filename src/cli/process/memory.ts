// This process's memory, as Linux counts it.

import { readFileSync, writeFileSync } from "node:fs";

function statusBytes(field: string): number {
  const kib = new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(readFileSync("/proc/self/status", "utf8"))?.[1];
  return kib === undefined ? 0 : Number(kib) * 1024;
}

/** Resident bytes now, mapped files included. */
export const residentBytes = (): number => statusBytes("VmRSS");

/** The most resident bytes since the start, or since resetPeakBytes(). */
export const peakBytes = (): number => statusBytes("VmHWM");

/** Lets peakBytes() count from now. Returns false where the kernel does not allow it. */
export function resetPeakBytes(): boolean {
  try {
    writeFileSync("/proc/self/clear_refs", "5");
    return true;
  } catch {
    return false;
  }
}
