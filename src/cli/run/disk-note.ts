// The disk space that a run with --tune full takes, reported before it starts.

import { existsSync, statfsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { formatBytes } from "../terminal/format.ts";

/** Of a checkpoint: float32 values, and AdamW's two moments in float32 or in a byte each. */
const VALUE_BYTES = 4;
const momentBytes = { adamw: 8, adamw8bit: 2 } as const;
const valueBytes = { f32: 4, bf16: 2, f16: 2 } as const;

export interface DiskUse {
  parameters: number;
  /** In all. */
  steps: number;
  saveSteps: number;
  saveTotalLimit: number;
  loadBestModelAtEnd: boolean;
  saveDtype: keyof typeof valueBytes;
  saveOnlyModel: boolean;
  optim: keyof typeof momentBytes;
}

/** Bytes of a checkpoint, of the model at the end, and of the most that there is at a time. */
export function diskUse(use: DiskUse) {
  const {
    parameters,
    steps,
    saveSteps,
    saveTotalLimit,
    loadBestModelAtEnd,
    saveDtype,
    saveOnlyModel,
    optim,
  } = use;
  const saves = Math.max(1, Math.ceil(steps / saveSteps));
  // The oldest is removed once the next is complete. The best evaluation's is saved and kept beside them.
  const most = loadBestModelAtEnd ? Math.min(steps, saveTotalLimit + 2) : Math.min(saves, saveTotalLimit + 1);
  const checkpoint = parameters * (VALUE_BYTES + (saveOnlyModel ? 0 : momentBytes[optim]));
  const model = parameters * valueBytes[saveDtype];
  return { checkpoint, model, most, total: most * checkpoint + model };
}

/** A line on the disk space that a run takes in `output`; a warning if less is free. */
export function diskNote(output: string, use: DiskUse, free = freeBytes(output)): string {
  const { checkpoint, model, most, total } = diskUse(use);
  const checkpoints = most === 1 ? "a checkpoint" : `up to ${most} checkpoints`;
  const line = `disk: ${checkpoints} of ${formatBytes(checkpoint)} and the model's ${formatBytes(model)}, ${formatBytes(total)} in all`;
  if (free === null) return line;
  if (total <= free) return `${line}; ${formatBytes(free)} free`;
  return `warning: ${line}, but ${formatBytes(free)} are free in ${output}; lower --save-total-limit, raise --save-steps, or choose another --output`;
}

/** Free bytes where `path` is or will be; null if the system does not say. */
function freeBytes(path: string): number | null {
  let folder = resolve(path);
  while (!existsSync(folder) && folder !== dirname(folder)) folder = dirname(folder);
  try {
    const { bavail, bsize } = statfsSync(folder);
    return bavail * bsize;
  } catch {
    return null;
  }
}
