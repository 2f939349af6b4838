// A chart as inline SVG that fits any width: the lines are in the units of their data, under a transform, so that the page's
// script reads exact values from them; text and line widths keep their size however the plot is stretched.

import { type Axis, placeOf, type ValueAxisOptions, valueAxis } from "./axis.ts";
import { type Curve, isolatedPoints, withoutLevels } from "./curve.ts";
import { escapeHtml, seriesClass } from "./html.ts";

export interface Series {
  /** Which run's: decides the color. */
  run: number;
  /** What the values are, for the tooltip: "alpha 5", "alpha 5, mean". */
  label: string;
  curve: Curve;
  /** faint: behind the others; points: a dot on each value; line: as it is. */
  kind: "faint" | "line" | "points";
}

export interface Chart {
  id: string;
  title: string;
  /** What the values are and their unit, beside the title. */
  unit: string;
  /** A sentence below the chart: how to read it. */
  note?: string;
  /** For those who do not see it: what it shows, in words. */
  description: string;
  series: readonly Series[];
  axis?: ValueAxisOptions;
}

/** The plot's own coordinates, before it is stretched. */
const UNITS = 1000;

/** 0.00018234567 → 0.00018235: as many digits as a person compares. */
const short = (value: number) => Number(value.toPrecision(5));

/**
 * The power of ten that values are multiplied with in paths. Renderers compute in float32 and lose lines whose transform
 * enlarges a millionfold, as learning rates would need.
 */
function powerFor(values: readonly number[], axis: Axis): number {
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  if (axis.isLog || largest === 0 || (largest >= 0.1 && largest < 1e6)) return 0;
  return -Math.floor(Math.log10(largest));
}

/** "M1 2.5L2 2.4M5 2.1": the points, broken where a value is missing. */
function pathOf({ x, y }: Curve, axis: Axis, scale: number): string {
  let path = "";
  let isOpen = false;
  for (let i = 0; i < x.length; i++) {
    const value = y[i]!;
    const place = value === null ? Number.NaN : placeOf(axis, value);
    if (Number.isFinite(place)) path += `${isOpen ? "L" : "M"}${x[i]} ${short(place * scale)}`;
    isOpen = Number.isFinite(place);
  }
  return path;
}

/** A line of no length with round ends is a dot, which no stretching deforms. */
function dotsOf({ x, y }: Curve, axis: Axis, scale: number): string {
  return x
    .map((step, i) => (y[i] === null ? "" : `M${step} ${short(placeOf(axis, y[i]!) * scale)}h0`))
    .join("");
}

const percent = (share: number) => `${Number((100 * share).toFixed(2))}%`;

function valuesOf(series: readonly Series[]): number[] {
  return series.flatMap(({ curve }) => curve.y.filter((value) => value !== null));
}

/** A figure over the steps of `horizontal`; the empty string where no series has a value. */
export function chartHtml(
  { id, title, unit, note, description, series, axis }: Chart,
  horizontal: Axis,
): string {
  const values = valuesOf(series);
  if (values.length === 0) return "";
  const vertical = valueAxis(values, axis);
  const [width, height] = [horizontal.max - horizontal.min, vertical.max - vertical.min];
  const power = powerFor(values, vertical);
  const scale = 10 ** power;
  const [a, d] = [UNITS / width, -UNITS / height / scale];
  const matrix = [a, 0, 0, d, -horizontal.min * a, UNITS - vertical.min * scale * d].map((n) =>
    Number(n.toPrecision(9)),
  );
  const up = (at: number) => percent(1 - (at - vertical.min) / height);
  const along = (at: number) => percent((at - horizontal.min) / width);
  const rows = vertical.ticks.map(
    ({ at, label }) =>
      `<line class="grid" x2="100%" y1="${up(at)}" y2="${up(at)}"/><text class="y" x="-8" y="${up(at)}" dy=".35em">${label}</text>`,
  );
  const columns = horizontal.ticks.map(
    ({ at, label }) => `<text class="x" x="${along(at)}" y="100%" dy="1.5em">${label}</text>`,
  );
  const paths = series.flatMap(({ run, label, curve, kind }) => {
    const name = kind === "faint" ? "" : ` data-label="${escapeHtml(label)}"`;
    const line = `<path class="${kind === "faint" ? "faint " : ""}${seriesClass(run)}"${name} d="${pathOf(withoutLevels(curve), vertical, scale)}"/>`;
    const dotted = kind === "points" ? curve : kind === "line" ? isolatedPoints(curve) : { x: [], y: [] };
    const dots = dotsOf(dotted, vertical, scale);
    return dots === "" ? [line] : [line, `<path class="dot ${seriesClass(run)}" d="${dots}"/>`];
  });
  const how = vertical.isLog ? ' data-log="1"' : power === 0 ? "" : ` data-power="${power}"`;
  return [
    `<figure class="chart" id="${id}"><figcaption><h3 id="${id}-t">${escapeHtml(title)}</h3><span>${escapeHtml(unit)}${vertical.isLog ? ", logarithmic" : ""}</span></figcaption>`,
    `<div class="plot"><svg role="img" aria-labelledby="${id}-t" aria-describedby="${id}-d" tabindex="0" data-x="${horizontal.min} ${horizontal.max}"${how}>`,
    `<desc id="${id}-d">${escapeHtml(description)}</desc>`,
    ...rows,
    '<text x="-50" y="100%" dy="1.5em">step</text>',
    ...columns,
    `<svg viewBox="0 0 ${UNITS} ${UNITS}" preserveAspectRatio="none" width="100%" height="100%"><g transform="matrix(${matrix.join(" ")})">`,
    ...paths,
    "</g></svg></svg></div>",
    note === undefined ? "" : `<p class="note">${escapeHtml(note)}</p>`,
    "</figure>",
  ].join("\n");
}
