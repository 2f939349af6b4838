// What the demo says of its runs beside the report that every run has.

import { type Extras, type Run, readRun, reportHtml } from "../../report/index.ts";
import type { Measured } from "./steps.ts";

/** A model of the demo and what was measured of it. */
export interface Result extends Measured {
  name: string;
  /** The run's folder; null of the base, whose curve is that of other data. */
  run: string | null;
}

export const percent = (share: number) => `${(share * 100).toFixed(0)} %`;

/** What the figures say, and no more. */
export function verdict(results: readonly Result[]): string {
  const plain = results.find(({ name }) => name === "alpha 0")!;
  const noisy = results.find(({ name }) => name === "alpha 5")!;
  const difference = noisy.heldOutLoss - plain.heldOutLoss;
  const size = Math.abs(difference).toFixed(3);
  const word =
    Math.abs(difference) < 0.01 ? "about as high as" : `${size} ${difference < 0 ? "lower" : "higher"} than`;
  return (
    `With noise the held-out loss is ${word} without, and ${percent(noisy.exact)} of the held-out answers are exactly ` +
    `right, compared with ${percent(plain.exact)} without noise. This is one run of a model a ten-thousandth of Llama's size on made-up ` +
    "data: it shows that everything works, not what NEFTune does for a real model."
  );
}

const STORY =
  "A small Llama was trained from random weights on plain text about a made-up world (the base), then fine-tuned with LoRA on instructions, once without noise (alpha 0) and once with NEFTune's (alpha 5). The held-out instructions are combinations that neither fine-tuning has seen.";

export function demoReport(
  results: readonly Result[],
  settings: readonly (readonly [string, string])[],
  version: string,
): string {
  const runs = results.flatMap(({ run, name }): Run[] => (run === null ? [] : [readRun(run, name)]));
  const figures = results.map(({ name, trainLoss, heldOutLoss, exact }) => [
    name,
    trainLoss.toFixed(3),
    heldOutLoss.toFixed(3),
    percent(exact),
  ]);
  const extras: Extras = {
    title: "neftune demo",
    lead: `${STORY} ${verdict(results)}`,
    tables: [
      {
        caption: "Losses and answers",
        head: ["model", "training loss (noise off)", "held-out loss", "exact answers"],
        rows: figures,
        numeric: [1, 2, 3],
      },
      { caption: "Settings", head: ["setting", "value"], rows: settings },
    ],
  };
  return reportHtml(runs, version, extras);
}
