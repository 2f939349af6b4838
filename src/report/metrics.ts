// metrics.jsonl as a report reads it: of runs that are over, still going, stopped, resumed or damaged.

import { countOf } from "../numbers.ts";
import type { Curve } from "./curve.ts";

/** The curves of a run, by name of the field. */
const stepFields = [
  "loss",
  "grad_norm",
  "learning_rate",
  "tokens_per_second",
  "peak_memory_bytes",
  "neft_scale_mean",
  "neft_scale_min",
  "neft_scale_max",
] as const;
export type StepField = (typeof stepFields)[number];

export interface Metrics {
  /** Empty where no line has the field. */
  curves: Readonly<Record<StepField, Curve>>;
  evalLoss: Curve;
  /** The last step that has a line of training. */
  lastStep: number;
  epoch: number | null;
  /** Sums over the lines of training. */
  lines: number;
  tokens: number;
  seconds: number;
  skipped: number;
  /** Numbers, from 1, of lines that are no lines of metrics. */
  damaged: number[];
}

export type MetricsLine = Readonly<Record<string, unknown>> & { step: number };

/** What to tell of lines that could not be read; nothing where there are none. */
export function damagedNotes(file: string, lines: readonly number[]): string[] {
  if (lines.length === 0) return [];
  const shown = lines.slice(0, 5).join(", ") + (lines.length > 5 ? ", …" : "");
  return [`${file}: ${countOf(lines.length, "damaged line")} left out (${shown})`];
}

/**
 * Reads the text of a metrics.jsonl. A last line without its end is being written, and left out. Where a step has two
 * lines, as in a file joined from pieces, the later one counts.
 */
export function parseMetrics(text: string): Metrics {
  const steps = new Map<number, MetricsLine>();
  const evaluations = new Map<number, MetricsLine>();
  const damaged: number[] = [];
  const lines = text.split("\n");
  lines.pop();
  for (const [i, line] of lines.entries()) {
    if (line === "") continue;
    const fields = parseMetricsLine(line);
    if (fields === null) damaged.push(i + 1);
    else ("eval_loss" in fields ? evaluations : steps).set(fields.step, fields);
  }
  const train = inOrder(steps);
  const sum = (name: string) => train.reduce((total, fields) => total + (numberOf(fields[name]) ?? 0), 0);
  const last = train.at(-1);
  return {
    curves: Object.fromEntries(stepFields.map((name) => [name, curveOf(train, name)])) as Metrics["curves"],
    evalLoss: curveOf(inOrder(evaluations), "eval_loss"),
    lastStep: last?.step ?? 0,
    epoch: last === undefined ? null : numberOf(last.epoch),
    lines: train.length,
    tokens: sum("tokens"),
    seconds: sum("seconds"),
    skipped: train.filter((fields) => "skipped" in fields).length,
    damaged,
  };
}

/** The line with null for Infinity and NaN, which JSON does not have but some of its writers do. */
export const plainMetricsLine = (line: string) =>
  line.replaceAll(/:\s*(?:-?Infinity|NaN)(?=\s*[,}])/g, ":null");

/** Null where it is no line of metrics. */
export function parseMetricsLine(line: string): MetricsLine | null {
  try {
    const fields = JSON.parse(plainMetricsLine(line)) as MetricsLine | null;
    return Number.isSafeInteger(fields?.step) && fields!.step >= 0 ? fields : null;
  } catch {
    return null;
  }
}

function inOrder(lines: ReadonlyMap<number, MetricsLine>): MetricsLine[] {
  return [...lines.values()].sort((a, b) => a.step - b.step);
}

function numberOf(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function curveOf(lines: readonly MetricsLine[], name: string): Curve {
  // A step without targets runs nothing, and has no speed.
  const hasValue = (fields: MetricsLine) => name !== "tokens_per_second" || fields.target_tokens !== 0;
  const having = lines.filter((fields) => name in fields && hasValue(fields));
  return { x: having.map(({ step }) => step), y: having.map((fields) => numberOf(fields[name])) };
}
