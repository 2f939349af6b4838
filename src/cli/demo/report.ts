// report.html: one file with nothing from outside. Loss curves as SVG, a table, samples side by side, settings.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { DemoData } from "./data.ts";
import type { Measured } from "./steps.ts";

interface Point {
  step: number;
  loss: number;
}

export interface Curve {
  train: Point[];
  heldOut: Point[];
}

/** A model of the demo and what was measured of it. */
export interface Result extends Measured {
  name: string;
  /** Of a fine-tuned model: its training. */
  curve: Curve | null;
}

export interface Report {
  data: DemoData;
  results: readonly Result[];
  settings: readonly (readonly [string, string])[];
  command: string;
}

/** The losses in a run's metrics.jsonl. */
export function readCurve(run: string): Curve {
  const curve: Curve = { train: [], heldOut: [] };
  for (const line of readFileSync(join(run, "metrics.jsonl"), "utf8").split("\n")) {
    if (line === "") continue;
    const { step, loss, eval_loss } = JSON.parse(line) as {
      step: number;
      loss?: number | null;
      eval_loss?: number | null;
    };
    if (typeof loss === "number") curve.train.push({ step, loss });
    if (typeof eval_loss === "number") curve.heldOut.push({ step, loss: eval_loss });
  }
  return curve;
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

const escapeHtml = (text: string) =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

const colors = ["#888888", "#2563eb", "#dc2626"];

function chart(results: readonly Result[]): string {
  const [width, height, left, bottom, top] = [760, 320, 48, 32, 12];
  const curves = results.flatMap(({ curve }, i) => (curve === null ? [] : [{ curve, color: colors[i]! }]));
  const points = curves.flatMap(({ curve }) => [...curve.train, ...curve.heldOut]);
  const lastStep = Math.max(1, ...points.map(({ step }) => step));
  const highest = Math.max(0.1, ...points.map(({ loss }) => loss));
  const x = (step: number) => left + (step / lastStep) * (width - left - 12);
  const y = (loss: number) => height - bottom - (loss / highest) * (height - bottom - top);
  const path = (line: readonly Point[]) =>
    line
      .map(({ step, loss }, i) => `${i === 0 ? "M" : "L"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`)
      .join("");
  const ticks = Array.from({ length: 5 }, (_, i) => (highest * i) / 4);
  return [
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Loss by step">`,
    ...ticks.map(
      (loss) =>
        `<line x1="${left}" x2="${width - 12}" y1="${y(loss)}" y2="${y(loss)}" class="grid"/>` +
        `<text x="${left - 6}" y="${y(loss) + 4}" text-anchor="end">${loss.toFixed(1)}</text>`,
    ),
    `<text x="${left}" y="${height - 8}">step 0</text>`,
    `<text x="${width - 12}" y="${height - 8}" text-anchor="end">step ${lastStep}</text>`,
    ...curves.flatMap(({ curve, color }) => [
      `<path d="${path(curve.train)}" stroke="${color}" class="train"/>`,
      `<path d="${path(curve.heldOut)}" stroke="${color}" class="held"/>`,
      ...curve.heldOut.map((p) => `<circle cx="${x(p.step)}" cy="${y(p.loss)}" r="3" fill="${color}"/>`),
    ]),
    "</svg>",
  ].join("\n");
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (tag: string, row: readonly string[]) =>
    `<tr>${row.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join("")}</tr>`;
  return `<table>${cells("th", head)}${rows.map((row) => cells("td", row)).join("")}</table>`;
}

/** One held-out instruction of every family, with each model's answer. */
function samples({ data, results }: Report): string {
  const families = [...new Set(data.heldOut.map(({ family }) => family))];
  const rows = families.map((family) => {
    const i = data.heldOut.findIndex((row) => row.family === family);
    const { instruction, input, output } = data.heldOut[i]!;
    const question = input === "" ? instruction : `${instruction} ${input}`;
    return [question, output, ...results.map(({ answers }) => answers[i]!)];
  });
  return table(["instruction (held out)", "expected", ...results.map(({ name }) => name)], rows);
}

export function reportHtml(report: Report): string {
  const { results, settings } = report;
  const figures = results.map(({ name, trainLoss, heldOutLoss, exact }) => [
    name,
    trainLoss.toFixed(3),
    heldOutLoss.toFixed(3),
    percent(exact),
  ]);
  const legend = results
    .map(({ name, curve }, i) =>
      curve === null ? "" : `<span style="color:${colors[i]}">■ ${escapeHtml(name)}</span>`,
    )
    .join(" ");
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>neftune demo</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 860px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; width: 100%; margin: 1em 0; }
th, td { text-align: left; vertical-align: top; padding: 4px 8px; border-bottom: 1px solid #ddd; }
svg { width: 100%; font-size: 12px; }
path { fill: none; } path.train { stroke-width: 1; opacity: .45; } path.held { stroke-width: 2; }
.grid { stroke: #eee; } code { background: #f4f4f4; padding: 1px 4px; }
</style></head><body>
<h1>neftune demo</h1>
<p>A small Llama was trained from random weights on plain text about a made-up world (the base), then fine-tuned with LoRA
on instructions, once without noise (alpha 0) and once with NEFTune's (alpha 5). The held-out instructions are
combinations that neither fine-tuning has seen.</p>
${table(["", "training loss (noise off)", "held-out loss", "exact answers"], figures)}
<p>${escapeHtml(verdict(results))}</p>
<h2>Loss</h2>
<p>${legend}: thin lines are training steps (with that run's noise), thick ones the held-out instructions (noise off).</p>
${chart(results)}
<h2>Answers</h2>
${samples(report)}
<h2>Settings</h2>
${table(["", ""], settings)}
<p>Made by <code>${escapeHtml(report.command)}</code>. The runs are in the folders beside this file.</p>
</body></html>
`;
}
