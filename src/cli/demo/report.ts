// What the demo says of its runs beside the report that every run has.

import { readRun, reportHtml } from "../../report/index.ts";
import { type SettingResult, sweepTable, verdict } from "../sweep/results.ts";

const STORY =
  "A small Llama was trained from random weights on plain text about a made-up world (the base), then fine-tuned with LoRA on instructions, without noise (alpha 0) and with NEFTune's (alpha 5), twice each. The held-out instructions are combinations that no fine-tuning has seen.";
const CAVEAT =
  "This is a model a ten-thousandth of Llama's size on made-up data: it shows that everything works, not what NEFTune does for a real model.";

/** What the figures say, and no more. */
export function demoVerdict(results: readonly SettingResult[]): string {
  return `${verdict(results)} ${CAVEAT}`;
}

export function demoReport(
  base: SettingResult,
  results: readonly SettingResult[],
  settings: readonly (readonly [string, string])[],
  version: string,
): string {
  const runs = results.flatMap(({ name, runs }) =>
    runs.map(({ path, seed }) => readRun(path, `${name}, seed ${seed}`)),
  );
  return reportHtml(runs, version, {
    title: "neftune demo",
    lead: `${STORY} ${demoVerdict(results)}`,
    tables: [
      sweepTable([base, ...results]),
      { caption: "Settings", head: ["setting", "value"], rows: settings },
    ],
  });
}
