// A run's answers to prompts: answers.jsonl, as `neftune generate` writes rows, and samples.jsonl, taken while training.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { readText } from "../formats/io.ts";
import { damagedNotes } from "./metrics.ts";

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
  /** What is wrong with the files. */
  notes: readonly string[];
}

export const NO_ANSWERS: Answers = { last: [], earlier: [], notes: [] };

/** The answers that a run's folder holds; damaged lines are left out, and noted. */
export function readAnswers(run: string): Answers {
  const notes: string[] = [];
  const answers = readRows(run, ANSWERS_FILE, notes);
  const samples = readRows(run, SAMPLES_FILE, notes);
  const end = samples.reduce((most, { step }) => Math.max(most, step ?? 0), 0);
  const isLast = ({ step }: Answer) => (step ?? 0) === end;
  const earlier = samples.filter((sample) => !isLast(sample));
  return { last: answers.length > 0 ? answers : samples.filter(isLast), earlier, notes };
}

/** A last line without its end is being written, and left out. */
function readRows(run: string, file: string, notes: string[]): Answer[] {
  const path = join(run, file);
  if (!existsSync(path)) return [];
  const damaged: number[] = [];
  const lines = readText(path).split("\n").slice(0, -1);
  const rows = lines.flatMap((line, i) => {
    if (line.trim() === "") return [];
    const answer = parseAnswer(i + 1, line);
    if (answer === null) damaged.push(i + 1);
    return answer ?? [];
  });
  notes.push(...damagedNotes(file, damaged));
  return rows;
}

/** Null of a line that is no row with an output. */
function parseAnswer(number: number, line: string): Answer | null {
  let row: Readonly<Record<string, unknown>> | null = null;
  try {
    row = JSON.parse(line);
  } catch {}
  if (typeof row !== "object" || row === null || typeof row.output !== "string") return null;
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
