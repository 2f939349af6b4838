// The plan of a sweep: for each setting and seed the run that train would make of the same options, and its folder.

import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Values } from "../../options/spec.ts";
import { trainOptions } from "../arguments/train-options.ts";
import type { Context } from "../command.ts";
import { type PlannedRun, planRun } from "../run/plan.ts";
import type { Setting } from "./grid.ts";

const {
  alpha: _alpha,
  resume: _resume,
  output: _output,
  "report-to": _trackers,
  "sample-prompts": _samples,
  "sample-steps": _every,
  ...shared
} = trainOptions;

/** Options that every run of a sweep takes as train does. */
export const sharedOptions = shared;

export interface SweptRun extends PlannedRun {
  label: string;
  /** Place of its setting. */
  setting: number;
  seed: number;
}

export interface SweepGrid {
  train: Values<typeof sharedOptions>;
  /** Runs of each setting. */
  seeds: number;
  output: string;
}

/** The runs in the order in which they go. Throws UsageError, NeftuneError, before any of them begins. */
export async function planSweep(
  settings: readonly Setting[],
  { train, seeds, output }: SweepGrid,
  context: Context,
): Promise<SweptRun[]> {
  const planned: SweptRun[] = [];
  for (const [setting, { name, values: swept }] of settings.entries()) {
    const given = new Map([
      ...context.given,
      ...Object.keys(swept).map((option) => [option, "flag"] as const),
    ]);
    // Alpha is a list here; where it is not swept, it is what train would take.
    if (!("alpha" in swept)) given.delete("alpha");
    const own = {
      alpha: trainOptions.alpha.default,
      "report-to": [],
      "sample-prompts": undefined,
      "sample-steps": trainOptions["sample-steps"].default,
      ...train,
      ...swept,
    };
    for (let i = 0; i < seeds; i++) {
      const label = `${name}-seed-${i + 1}`;
      const seed = train.seed + i;
      const dir = join(output, label);
      // What is the same for all runs is said once.
      const note = planned.length === 0 ? context.note : () => {};
      const plan = await planRun(
        { ...own, seed, output: dir, resume: existsSync(join(dir, "metrics.jsonl")) },
        { ...context, given, note },
      );
      planned.push({ ...plan, label, setting, seed });
    }
  }
  return planned;
}
