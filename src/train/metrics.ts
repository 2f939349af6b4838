// metrics.jsonl: one JSON object a line. A run that was killed and resumed leaves the same lines as one that never
// stopped, but for times and memory.

import { closeSync, existsSync, fsyncSync, openSync, readFileSync } from "node:fs";
import { FormatError } from "../errors.ts";
import { ioError, writeAll, writeTextAtomically } from "../formats/io.ts";

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

/** The shortest decimal that reads back as the same float32; null where it is not finite. */
export function float32Text(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return "null";
  const single = Math.fround(value);
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

/** Where a checkpoint stands in metrics.jsonl. */
export interface MetricsPosition {
  step: number;
  /** The evaluation after `step` is still to come. */
  evalPending: boolean;
}

/** The open file. Lines go to the system at once: only a power cut can take those since the last flush(). */
export class MetricsFile {
  readonly path: string;
  readonly #fd: number;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  /** Opens the file to go on from a checkpoint: lines of later steps, and a torn last line, are cut off first. */
  static open(path: string, position: MetricsPosition): MetricsFile {
    try {
      if (existsSync(path)) rewind(path, position);
      return new MetricsFile(path, openSync(path, "a"));
    } catch (error) {
      throw ioError(path, "write", error);
    }
  }

  append(line: string): void {
    try {
      writeAll(this.#fd, new TextEncoder().encode(`${line}\n`));
    } catch (error) {
      throw ioError(this.path, "write", error);
    }
  }

  /** Makes all lines last. A checkpoint calls it first, so that its lines are never missing. */
  flush(): void {
    try {
      fsyncSync(this.#fd);
    } catch (error) {
      throw ioError(this.path, "write", error);
    }
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function rewind(path: string, position: MetricsPosition): void {
  const text = readFileSync(path, "utf8");
  const lines = text.split("\n").slice(0, -1); // what comes after the last line end is torn
  const kept = lines.filter((line, i) => isBefore(path, i + 1, line, position));
  const result = kept.map((line) => `${line}\n`).join("");
  if (result !== text) writeTextAtomically(path, result);
}

function isBefore(path: string, number: number, line: string, position: MetricsPosition): boolean {
  let fields: { step?: unknown; eval_loss?: unknown } | null = null;
  try {
    fields = JSON.parse(line);
  } catch {}
  if (typeof fields?.step !== "number") {
    throw new FormatError(path, `line ${number} is no line of metrics; remove it to go on with the run`);
  }
  if (fields.step !== position.step) return fields.step < position.step;
  return !(position.evalPending && "eval_loss" in fields);
}
