// metrics.jsonl: one JSON object a line. A run that was killed and resumed leaves the same lines as one that never
// stopped, but for times and memory.

import { closeSync, existsSync, fsyncSync, openSync, readFileSync } from "node:fs";
import { FormatError } from "../errors.ts";
import { ioError, writeAll, writeTextAtomically } from "../formats/io.ts";
import { type MetricsLine, parseMetricsLine, plainMetricsLine } from "../report/metrics.ts";

export interface StepMetrics {
  /** Steps done, this one included. */
  step: number;
  /** Epochs done, as a fraction. */
  epoch: number;
  /** Mean cross-entropy over the step's target tokens; null where there is no finite one. */
  loss: number | null;
  /** Before clipping; null where it is not finite or was not computed. */
  gradNorm: number | null;
  learningRate: number;
  samples: number;
  /** Padding not counted. */
  tokens: number;
  targetTokens: number;
  seconds: number;
  tokensPerSecond: number;
  peakMemoryBytes: number;
  /** Of several ranks: spent on exchanges between them, waiting for the slowest included. */
  communicationSeconds?: number;
  /** After the update; null: the noise has no learned scale. */
  neftScale: { mean: number; min: number; max: number } | null;
  /** Why no update was made; null for a step like any other. The line has it only where there is a reason. */
  skipped: string | null;
}

export interface EvalMetrics {
  step: number;
  epoch: number;
  /** Both null where they are not finite. */
  loss: number | null;
  perplexity: number | null;
  targetTokens: number;
}

/** The shortest decimal that reads back as the same float32; null where that is not finite, as JSON has no such number. */
export function float32Text(value: number | null): string {
  const single = Math.fround(value ?? Number.NaN);
  if (!Number.isFinite(single)) return "null";
  for (let digits = 1; digits < 9; digits++) {
    const text = Number(single.toPrecision(digits));
    if (Math.fround(text) === single) return String(text);
  }
  return String(Number(single.toPrecision(9)));
}

export function stepLine(metrics: StepMetrics): string {
  const fields = [
    `"step":${metrics.step}`,
    `"epoch":${float32Text(metrics.epoch)}`,
    `"loss":${float32Text(metrics.loss)}`,
    `"grad_norm":${float32Text(metrics.gradNorm)}`,
    `"learning_rate":${float32Text(metrics.learningRate)}`,
    `"samples":${metrics.samples}`,
    `"tokens":${metrics.tokens}`,
    `"target_tokens":${metrics.targetTokens}`,
    `"seconds":${float32Text(metrics.seconds)}`,
    `"tokens_per_second":${float32Text(metrics.tokensPerSecond)}`,
    `"peak_memory_bytes":${metrics.peakMemoryBytes}`,
  ];
  if (metrics.communicationSeconds !== undefined)
    fields.push(`"communication_seconds":${float32Text(metrics.communicationSeconds)}`);
  for (const [name, value] of Object.entries(metrics.neftScale ?? {}))
    fields.push(`"neft_scale_${name}":${float32Text(value)}`);
  if (metrics.skipped !== null) fields.push(`"skipped":${JSON.stringify(metrics.skipped)}`);
  return `{${fields}}`;
}

export function evalLine(metrics: EvalMetrics): string {
  const fields = [
    `"step":${metrics.step}`,
    `"epoch":${float32Text(metrics.epoch)}`,
    `"eval_loss":${float32Text(metrics.loss)}`,
    `"eval_perplexity":${float32Text(metrics.perplexity)}`,
    `"eval_tokens":${metrics.targetTokens}`,
  ];
  return `{${fields}}`;
}

/** After step `after`, until the next span, one step in `every` has a line. */
export interface LoggingSpan {
  after: number;
  every: number;
}

/** Where a checkpoint stands in metrics.jsonl. */
export interface MetricsPosition {
  step: number;
  logging: readonly LoggingSpan[];
  /** The evaluation after `step` is still to come. */
  evalPending: boolean;
}

/** The open file. Lines go to the system at once: only a power cut can take those since the last flush(). */
export class MetricsFile {
  readonly path: string;
  /** Steps before the checkpoint that should have a line and have none. */
  readonly missing: readonly number[];
  readonly #fd: number;

  private constructor(path: string, fd: number, missing: readonly number[]) {
    this.path = path;
    this.#fd = fd;
    this.missing = missing;
  }

  /** Opens the file to go on from a checkpoint: lines of later steps, and a torn last line, are cut off first. */
  static open(path: string, position: MetricsPosition): MetricsFile {
    try {
      const steps = existsSync(path) ? rewind(path, position) : new Set<number>();
      const missing = expectedSteps(position).filter((step) => !steps.has(step));
      return new MetricsFile(path, openSync(path, "a"), missing);
    } catch (error) {
      throw ioError(path, "written", error);
    }
  }

  append(line: string): void {
    try {
      writeAll(this.#fd, new TextEncoder().encode(`${line}\n`));
    } catch (error) {
      throw ioError(this.path, "written", error);
    }
  }

  /** Makes all lines last. A checkpoint calls it first, so that its lines are never missing. */
  flush(): void {
    try {
      fsyncSync(this.#fd);
    } catch (error) {
      throw ioError(this.path, "written", error);
    }
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** Says which steps have lost their lines; null where none has. */
export function missingNote({ path, missing }: MetricsFile): string | null {
  if (missing.length === 0) return null;
  const ranges: [first: number, last: number][] = [];
  for (const [i, step] of missing.entries()) {
    // Neighbors in the list may be logging-steps apart; only true neighbors are put together.
    if (step === missing[i - 1]! + 1) ranges.at(-1)![1] = step;
    else ranges.push([step, step]);
  }
  const shown = ranges.slice(0, 10).map(([first, last]) => (first === last ? first : `${first}-${last}`));
  const more = ranges.length > shown.length ? ", …" : "";
  return `--resume: ${path} lacks the lines of ${missing.length} steps (${shown.join(", ")}${more}); the run continues without them`;
}

function expectedSteps({ step, logging }: MetricsPosition): number[] {
  return logging.flatMap(({ after, every }, i) => {
    const end = Math.min(step, logging[i + 1]?.after ?? step);
    const first = Math.floor(after / every) + 1;
    const count = Math.max(0, Math.floor(end / every) - first + 1);
    return Array.from({ length: count }, (_, n) => (first + n) * every);
  });
}

/** Returns the steps that keep a line. */
function rewind(path: string, position: MetricsPosition): Set<number> {
  const text = readFileSync(path, "utf8");
  const lines = text.split("\n").slice(0, -1); // what comes after the last line end is torn
  const steps = new Set<number>();
  const kept = lines.filter((line, i) => {
    const fields = parseLine(path, i + 1, line);
    const isKept = isBefore(fields, position);
    if (isKept && !("eval_loss" in fields)) steps.add(fields.step);
    return isKept;
  });
  const result = kept.map((line) => `${plainMetricsLine(line)}\n`).join("");
  if (result !== text) writeTextAtomically(path, result);
  return steps;
}

function parseLine(path: string, number: number, line: string): MetricsLine {
  const fields = parseMetricsLine(line);
  if (fields !== null) return fields;
  throw new FormatError(path, `line ${number} is not a line of metrics; remove it to continue the run`);
}

function isBefore(fields: MetricsLine, position: MetricsPosition): boolean {
  if (fields.step !== position.step) return fields.step < position.step;
  return !(position.evalPending && "eval_loss" in fields);
}
