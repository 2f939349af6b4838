// A run's answers to prompts: answers.jsonl, as `neftune generate` writes rows, and samples.jsonl, taken while training.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { FormatError } from "../errors.ts";
import { readText } from "../formats/io.ts";

export const ANSWERS_FILE = "answers.jsonl";
export const SAMPLES_FILE = "samples.jsonl";

export interface Answer {
  question: string;
  output: string;
  /** What was expected; empty where the row does not say. */
  references: readonly string[];
  /** The step it was given after; null: by the finished run. */
  step: number | null;
}

export interface Answers {
  /** Those of answers.jsonl, else of the last step in samples.jsonl. */
  last: readonly Answer[];
  /** Those of samples.jsonl but for its last step's, in the order of steps. */
  earlier: readonly Answer[];
}

export const NO_ANSWERS: Answers = { last: [], earlier: [] };

/** The answers that a run's folder holds. Throws FormatError. */
export function readAnswers(run: string): Answers {
  const answers = readRows(join(run, ANSWERS_FILE));
  const samples = readRows(join(run, SAMPLES_FILE));
  const end = samples.reduce((most, { step }) => Math.max(most, step ?? 0), 0);
  const isLast = ({ step }: Answer) => (step ?? 0) === end;
  const earlier = samples.filter((sample) => !isLast(sample));
  return { last: answers.length > 0 ? answers : samples.filter(isLast), earlier };
}

/** A last line without its end is being written, and left out. */
function readRows(path: string): Answer[] {
  if (!existsSync(path)) return [];
  const lines = readText(path).split("\n").slice(0, -1);
  return lines.flatMap((line, i) => (line.trim() === "" ? [] : [parseAnswer(path, i + 1, line)]));
}

function parseAnswer(path: string, number: number, line: string): Answer {
  let row: Readonly<Record<string, unknown>> | null = null;
  try {
    row = JSON.parse(line);
  } catch {}
  if (typeof row !== "object" || row === null || typeof row.output !== "string") {
    throw new FormatError(path, `line ${number} is not a row with an output`);
  }
  const asked = row.instruction ?? row.prompt;
  const own = row.references ?? row.reference ?? [];
  const references = (Array.isArray(own) ? own : [own]).filter((one) => typeof one === "string");
  return {
    question: typeof asked === "string" ? asked : `row ${number}`,
    output: row.output,
    references,
    step: typeof row.step === "number" ? row.step : null,
  };
}
