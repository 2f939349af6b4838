// A run as a report sees it: what its folder says, however far it came and whatever is missing.

import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { FormatError, NeftuneError, UsageError } from "../errors.ts";
import { readText } from "../formats/io.ts";
import { readJsonObject } from "../formats/json-file.ts";
import { type Answers, NO_ANSWERS, readAnswers } from "./answers.ts";
import { readEvalLosses } from "./eval-losses.ts";
import { damagedNotes, type Metrics, parseMetrics } from "./metrics.ts";
import type { SampleLosses } from "./statistics.ts";

export type RunState = "finished" | "running" | "stopped";

export interface Run {
  path: string;
  name: string;
  state: RunState;
  /** Options as config.json records them, by name. Empty where it is missing. */
  options: ReadonlyMap<string, string>;
  /** Where values come from that are not defaults. */
  chosen: ReadonlySet<string>;
  totalSteps: number | null;
  device: string | null;
  version: string | null;
  metrics: Metrics;
  /** The last evaluation, sample by sample; null where the run keeps none. */
  evaluation: ({ step: number } & SampleLosses) | null;
  /** Answers to the same prompts that other runs have. */
  answers: Answers;
  /** What is wrong with the folder. */
  notes: readonly string[];
}

export const METRICS_FILE = "metrics.jsonl";

/** Marks of a run that reached its end. */
const RESULTS = ["adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json"];

/** Names of several runs, told apart by as much of their paths as it takes. */
export function namesOf(paths: readonly string[]): string[] {
  const parts = paths.map((path) => resolve(path).split("/"));
  for (let count = 1; ; count++) {
    const names = parts.map((part) => part.slice(-count).join("/"));
    if (new Set(names).size === names.length || parts.every(({ length }) => length <= count)) return names;
  }
}

/**
 * Reads the run in a folder. `isRunning`: a process writes to it now. What is damaged is told in `notes` and left out.
 * Throws UsageError where the folder holds no run.
 */
export function readRun(path: string, name = basename(resolve(path)), isRunning = false): Run {
  const file = join(path, METRICS_FILE);
  if (!existsSync(file)) {
    const why = existsSync(path) ? `holds no ${METRICS_FILE}` : "does not exist";
    throw new UsageError(`${path} ${why}; expected the folder of a training run`);
  }
  const metrics = parseMetrics(readText(file));
  const notes = damagedNotes(METRICS_FILE, metrics.damaged);
  const salvage = <T>(read: () => T, otherwise: T): T => {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof NeftuneError)) throw error;
      notes.push(error.message);
      return otherwise;
    }
  };
  const record = salvage(() => readRecord(path), new Map());
  const evaluation = salvage(() => readEvalLosses(path), null);
  const answers = salvage(() => readAnswers(path), NO_ANSWERS);
  notes.push(...answers.notes);
  const number = (key: string) => (typeof record.get(key) === "number" ? (record.get(key) as number) : null);
  const string = (value: unknown) => (typeof value === "string" ? value : null);
  const device = record.get("device");
  const totalSteps = number("total_steps");
  const hasResult = RESULTS.some((result) => existsSync(join(path, result)));
  const isComplete = totalSteps === null || metrics.lastStep >= totalSteps || hasResult;
  return {
    path,
    name,
    state: isRunning ? "running" : hasResult && isComplete ? "finished" : "stopped",
    options: optionsOf(record),
    chosen: chosenOptions(record),
    totalSteps,
    device: device instanceof Map ? string(device.get("name")) : null,
    version: string(record.get("neftune_version")),
    metrics,
    evaluation,
    answers,
    notes,
  };
}

/** What the run wrote down of itself; with --tune full its config.json is the model's. */
function readRecord(path: string): ReadonlyMap<string, unknown> {
  for (const name of ["run.json", "config.json"]) {
    if (!existsSync(join(path, name))) continue;
    const record = readJsonObject(join(path, name));
    if (record.has("neftune_version")) return record;
  }
  throw new FormatError(path, "holds no config.json of a run, so that its options are not known");
}

/**
 * The options that a run records, as text. Findings have underscores in their names or are objects; an empty list is an
 * option that was not given.
 */
export function optionsOf(record: Iterable<readonly [name: string, value: unknown]>): Map<string, string> {
  const options = new Map<string, string>();
  for (const [key, value] of record) {
    const isList = Array.isArray(value);
    const isPlain = isList ? value.length > 0 && value.every(isScalar) : isScalar(value);
    if (isPlain && !key.includes("_") && key !== "output") options.set(key, textOf(value));
  }
  return options;
}

const isScalar = (value: unknown) => ["string", "number", "boolean"].includes(typeof value);

function textOf(value: unknown): string {
  if (Array.isArray(value)) return value.join(", ");
  if (typeof value === "boolean") return value ? "on" : "off";
  return String(value);
}

function chosenOptions(record: ReadonlyMap<string, unknown>): Set<string> {
  const sources = record.get("option_sources");
  if (!(sources instanceof Map)) return new Set();
  return new Set([...sources].flatMap(([name, source]) => (source === "default" ? [] : [name as string])));
}
