// The algorithms of matrix products that the ranks of a run on GPUs have timed and chosen (NEFTUNE_TUNE_MATMUL=1), kept in
// its folder: where it is resumed, each rank goes by its own and computes the same bits.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Device } from "../native/index.ts";
import type { Team } from "../ranks/team.ts";
import type { RunFolder } from "./run-folder.ts";

/** A text for each rank, in their order, a blank line between two. */
const MATMUL_CHOICES_FILE = "matmul-choices.txt";
const SEPARATOR = "\n";
const BETWEEN = /(?<=^|\n)\n/;

type ChoosingDevice = Pick<Device, "matmulChoices" | "useMatmulChoices">;
type Choosers = { readonly ranks: Pick<Team["ranks"], "rank" | "share"> };

/** What the ranks of the run in this folder chose, in their order; none where nothing is kept. */
export function readMatmulChoices({ path }: Pick<RunFolder, "path">): string[] {
  const file = join(path, MATMUL_CHOICES_FILE);
  return existsSync(file) ? readFileSync(file, "utf8").split(BETWEEN) : [];
}

/**
 * Has each rank's device go by what the rank of its number chose, or the first where there was none. Returns what to say
 * where one cannot. All ranks call it, with the same texts.
 */
export async function restoreMatmulChoices(
  texts: readonly string[],
  device: ChoosingDevice,
  team: Choosers | null = null,
): Promise<string[]> {
  if (texts.length === 0) return [];
  const problem = goBy(texts[team?.ranks.rank ?? 0] ?? texts[0]!, device);
  const problems = team === null ? [problem] : await team.ranks.share(problem);
  return problems.flatMap((reason, rank) => {
    const where = rank === 0 ? "" : ` on rank ${rank}`;
    const what = `${MATMUL_CHOICES_FILE} is not used${where}, and the last bits of results may differ`;
    return reason === "" ? [] : [`--resume: ${what}: ${reason}`];
  });
}

/** Returns why the device cannot; "" where it does. */
function goBy(text: string, device: ChoosingDevice): string {
  if (text === "") return "";
  try {
    device.useMatmulChoices(text);
    return "";
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** What all ranks' devices have chosen so far, in their order. All ranks call it. */
export async function gatherMatmulChoices(
  device: ChoosingDevice,
  team: Choosers | null = null,
): Promise<string[]> {
  const own = device.matmulChoices();
  return team === null ? [own] : team.ranks.share(own);
}

/** What each folder's file holds. */
const kept = new WeakMap<RunFolder, string>();

/** Writes the ranks' choices to the folder where there are new ones. */
export function keepMatmulChoices(folder: RunFolder, texts: readonly string[]): void {
  const text = texts.join(SEPARATOR);
  if (texts.every((own) => own === "") || text === kept.get(folder)) return;
  folder.writeText(MATMUL_CHOICES_FILE, text);
  kept.set(folder, text);
}
