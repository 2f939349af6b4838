// The algorithms of matrix products that a run on a GPU has timed and chosen (NEFTUNE_TUNE_MATMUL=1), kept in its folder: a
// resumed run goes by them; one of a single process so computes the same bits.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Device } from "../native/index.ts";
import type { RunFolder } from "./run-folder.ts";

const MATMUL_CHOICES_FILE = "matmul-choices.txt";

type ChoosingDevice = Pick<Device, "matmulChoices" | "useMatmulChoices">;

/** Has the device go by what the folder holds. Returns what to say where that cannot be; else null. */
export function restoreMatmulChoices({ path }: RunFolder, device: ChoosingDevice): string | null {
  const file = join(path, MATMUL_CHOICES_FILE);
  if (!existsSync(file)) return null;
  try {
    device.useMatmulChoices(readFileSync(file, "utf8"));
    return null;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return `--resume: ${MATMUL_CHOICES_FILE} is not used, and the last bits of results may differ: ${reason}`;
  }
}

/** What each folder's file holds. */
const kept = new WeakMap<RunFolder, string>();

/** Writes the device's choices to the folder where there are new ones. */
export function keepMatmulChoices(folder: RunFolder, device: ChoosingDevice): void {
  const text = device.matmulChoices();
  if (text === "" || text === kept.get(folder)) return;
  folder.writeText(MATMUL_CHOICES_FILE, text);
  kept.set(folder, text);
}
