// The charts of a report: which curves of the runs are shown, and how.

import { formatCount } from "../numbers.ts";
import { stepAxis } from "./axis.ts";
import { type Chart, chartHtml, type Series } from "./chart.ts";
import { type Curve, endsOf, exponentialMean, meanSpan, thin } from "./curve.ts";
import type { StepField } from "./metrics.ts";
import type { Run } from "./run.ts";

/** Pairs of points that all lines of a chart share: what a page of 300 KB has room for. */
const BUCKETS = 1000;
const MOST_BUCKETS = 320;
const FEWEST_BUCKETS = 24;
const GIB = 2 ** 30;

interface Shown {
  id: string;
  field: StepField;
  title: string;
  unit: string;
  /** Single steps say little: they are faint, and their mean is strong. */
  isNoisy?: boolean;
  note?: (over: string) => string;
  scale?: number;
  axis?: Chart["axis"];
}

const shown: readonly Shown[] = [
  {
    ...{
      id: "loss",
      field: "loss",
      title: "Training loss",
      unit: "cross-entropy per target token, with noise",
    },
    isNoisy: true,
    note: (over) => `Faint: single steps. Strong: their exponential mean over about ${over} logged steps.`,
  },
  {
    id: "rate",
    field: "learning_rate",
    title: "Learning rate",
    unit: "peak × schedule",
    axis: { fromZero: true },
  },
  {
    ...{ id: "norm", field: "grad_norm", title: "Gradient norm", unit: "before clipping" },
    ...{ isNoisy: true, axis: { mayBeLog: true } },
  },
  {
    ...{ id: "speed", field: "tokens_per_second", title: "Speed", unit: "tokens per second" },
    ...{ isNoisy: true, axis: { fromZero: true } },
  },
  {
    ...{ id: "memory", field: "peak_memory_bytes", title: "Peak memory", unit: "GiB" },
    ...{ scale: 1 / GIB, axis: { fromZero: true } },
  },
  { id: "scale", field: "neft_scale_mean", title: "Learned noise scale", unit: "mean over dimensions" },
];

const scaled = ({ x, y }: Curve, scale: number): Curve =>
  scale === 1 ? { x, y } : { x, y: y.map((value) => (value === null ? null : value * scale)) };

function bucketsFor(runs: number): number {
  return Math.min(MOST_BUCKETS, Math.max(FEWEST_BUCKETS, Math.floor(BUCKETS / runs)));
}

/** "alpha 5: 2.61 at step 1, 1.21 at step 300." for each run. */
function describe(series: readonly Series[]): string {
  const digits = (value: number) => String(Number(value.toPrecision(4)));
  const sentences = series.map(({ label, curve: { x, y } }) => {
    const having = x.flatMap((step, i) => (y[i] === null ? [] : [[step, y[i]!] as const]));
    const [first, last] = [having[0], having.at(-1)];
    if (first === undefined || last === undefined) return `${label}: no values.`;
    return first === last
      ? `${label}: ${digits(first[1])} at step ${first[0]}.`
      : `${label}: ${digits(first[1])} at step ${first[0]}, ${digits(last[1])} at step ${last[0]}.`;
  });
  return sentences.join(" ");
}

function stepChart(runs: readonly Run[], buckets: number, of: Shown): Chart {
  const { id, title, unit, axis } = of;
  const faint: Series[] = [];
  const strong: Series[] = [];
  const spans: number[] = [];
  for (const [run, { name: label, metrics }] of runs.entries()) {
    const curve = scaled(metrics.curves[of.field], of.scale ?? 1);
    if (of.isNoisy === true) {
      const span = meanSpan(curve.x.length);
      spans.push(span);
      faint.push({ run, label, kind: "faint", curve: thin(curve, buckets) });
      const mean = thin(exponentialMean(curve, span), Math.ceil(buckets / 2));
      strong.push({ run, label, kind: "line", curve: mean });
    } else strong.push({ run, label, kind: "line", curve: thin(curve, buckets) });
  }
  const [shortest, longest] = [Math.min(...spans), Math.max(...spans)];
  const over =
    shortest === longest ? formatCount(longest) : `${formatCount(shortest)} to ${formatCount(longest)}`;
  return {
    ...{ id, title, unit, description: describe(strong), series: [...faint, ...strong] },
    ...(of.note === undefined ? {} : { note: of.note(over) }),
    ...(axis === undefined ? {} : { axis }),
  };
}

function evaluationChart(runs: readonly Run[], buckets: number): Chart {
  const series = runs.map(({ name, metrics }, run): Series => {
    return { run, label: name, kind: "points", curve: thin(metrics.evalLoss, Math.ceil(buckets / 4)) };
  });
  return {
    id: "eval",
    title: "Evaluation loss",
    unit: "cross-entropy per target token, noise off",
    description: describe(series),
    series,
  };
}

/** The HTML of all charts that have something to show, with fewer points where it would take more than `bytes`. */
export function chartsHtml(runs: readonly Run[], bytes: number): string {
  const curves = runs.flatMap(({ metrics }) => [metrics.curves.loss, metrics.evalLoss]);
  // The same steps in every chart, so that charts one above the other can be compared.
  const across = stepAxis(curves.flatMap(endsOf));
  for (let buckets = bucketsFor(runs.length); ; ) {
    const [loss, ...others] = shown.map((of) => stepChart(runs, buckets, of));
    const charts = [loss!, evaluationChart(runs, buckets), ...others];
    const html = charts.map((chart) => chartHtml(chart, across)).join("\n");
    const size = Buffer.byteLength(html);
    if (size <= bytes || buckets === FEWEST_BUCKETS) return html;
    buckets = Math.max(FEWEST_BUCKETS, Math.min(buckets - 1, Math.floor((0.95 * buckets * bytes) / size)));
  }
}
