// Time, memory and disk of a process while it works.

import { readFileSync, statfsSync, writeFileSync } from "node:fs";
import type { Limits, Stopped } from "./outcome.ts";

const TICKS_PER_SECOND = 100;
const LOOK_EVERY_MILLISECONDS = 50;
/** A busy machine lets a process wait, so of the clock more time is allowed than of the processor. */
const WAITING = 6;

/** Seconds of processor time that all threads of a process have taken; null where it is gone. */
function cpuSeconds(pid: number): number | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  } catch {
    return null;
  }
}

function peakBytes(pid: number): number {
  try {
    return 1024 * Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0);
  } catch {
    return 0;
  }
}

export interface Usage {
  seconds: number;
  cpuSeconds: number;
  peakBytes: number;
  stopped: Stopped | null;
}

function freeBytes(dir: string): number {
  const { bavail, bsize } = statfsSync(dir);
  return bavail * bsize;
}

/** Looks at a process that writes to `dir` from now until `done` settles; kills it where it passes a limit. */
export async function watch(
  pid: number,
  dir: string,
  done: Promise<unknown>,
  limits: Limits,
): Promise<Usage> {
  const freeStart = freeBytes(dir);
  const start = performance.now();
  const cpuStart = cpuSeconds(pid) ?? 0;
  try {
    writeFileSync(`/proc/${pid}/clear_refs`, "5"); // the peak begins anew
  } catch {
    // gone already, or a kernel without it
  }
  const usage: Usage = { seconds: 0, cpuSeconds: 0, peakBytes: 0, stopped: null };
  let isDone = false;
  const settle = () => {
    isDone = true;
  };
  const finished = done.then(settle, settle);
  for (;;) {
    await Promise.race([finished, Bun.sleep(LOOK_EVERY_MILLISECONDS)]);
    usage.seconds = (performance.now() - start) / 1000;
    const cpu = cpuSeconds(pid);
    if (cpu !== null) usage.cpuSeconds = cpu - cpuStart;
    usage.peakBytes = Math.max(usage.peakBytes, peakBytes(pid));
    if (isDone) return usage;
    if (usage.peakBytes > limits.bytes) usage.stopped = "memory";
    else if (usage.cpuSeconds > limits.seconds || usage.seconds > WAITING * limits.seconds)
      usage.stopped = "time";
    else if (freeStart - freeBytes(dir) > limits.diskBytes) usage.stopped = "disk";
    if (usage.stopped === null) continue;
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // it has ended meanwhile
    }
    await finished;
    return usage;
  }
}
