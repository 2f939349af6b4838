// The report in a terminal: the loss curve drawn with characters.

import { placeOf, stepAxis, valueAxis } from "./axis.ts";
import { endsOf, exponentialMean, meanSpan } from "./curve.ts";
import type { Run } from "./run.ts";

const ROWS = 14;
const FEWEST_COLUMNS = 20;

/** Marks of the runs, in order; from the 27th on they repeat. */
export const markOf = (run: number, count: number) =>
  count === 1 ? "•" : String.fromCharCode(97 + (run % 26));

/** The exponential mean of each run's training loss, as lines of at most `width` columns; none where there is no loss. */
export function plotText(runs: readonly Run[], width: number): string[] {
  const curves = runs.map(({ metrics: { curves } }) =>
    exponentialMean(curves.loss, meanSpan(curves.loss.x.length)),
  );
  const values = curves.flatMap(({ y }) => y.filter((value) => value !== null));
  if (values.length === 0) return [];
  const [across, up] = [stepAxis(curves.flatMap(endsOf)), valueAxis(values)];
  const margin = Math.max(...up.ticks.map(({ label }) => label.length)) + 2;
  const columns = Math.max(FEWEST_COLUMNS, width - margin);
  const rowOf = (value: number) =>
    Math.round(((up.max - placeOf(up, value)) / (up.max - up.min)) * (ROWS - 1));
  const columnOf = (step: number) =>
    Math.round(((step - across.min) / (across.max - across.min)) * (columns - 1));

  const grid = Array.from({ length: ROWS }, () => new Array<string>(columns).fill(" "));
  for (const [run, { x, y }] of curves.entries()) {
    for (const [i, value] of y.entries())
      if (value !== null) grid[rowOf(value)]![columnOf(x[i]!)] = markOf(run, runs.length);
  }
  const labels = new Map(up.ticks.map(({ at, label }) => [rowOf(at), label]));
  const lines = grid.map((row, i) => {
    const label = (labels.get(i) ?? "").padStart(margin - 2);
    return `${label} ${labels.has(i) ? "┤" : "│"}${row.join("")}`.trimEnd();
  });
  const [first, last] = [String(across.min), `step ${across.max}`];
  const gap = Math.max(1, columns - first.length - last.length);
  return [
    ...lines,
    `${" ".repeat(margin - 1)}└${"─".repeat(columns)}`,
    `${" ".repeat(margin)}${first}${" ".repeat(gap)}${last}`,
  ];
}
