// What outputs are compared with: references in their own rows, or the answers of the data they were asked from.

import { alpacaPrompt } from "../data/alpaca.ts";
import { parseRow, type Row, RowProblem } from "../data/formats.ts";
import { wordsOf } from "./words.ts";

/** A row of an output file, checked. */
export interface OutputRow {
  text: string;
  /** What was asked: `instruction` or `prompt`; empty where the row does not say. */
  question: string;
  /** True where the question is a prompt as a template made it, with more around what was asked. */
  isRendered: boolean;
  generator: string | null;
  /** `reference` or `references` of the row itself. */
  references: string[];
}

/**
 * Reads a row that `neftune generate` wrote (prompt, output) or one of AlpacaEval's model outputs (instruction, output,
 * generator). Throws RowProblem.
 */
export function outputRow(value: unknown): OutputRow {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new RowProblem("expected an object with a field output");
  }
  const fields = value as Readonly<Record<string, unknown>>;
  const text = fields.output;
  if (typeof text !== "string") {
    const keys = Object.keys(fields).slice(0, 8).join(", ");
    throw new RowProblem(`field "output": expected a string; the row has ${keys || "no fields"}`);
  }
  const own = fields.references ?? fields.reference ?? [];
  const references: unknown[] = Array.isArray(own) ? own : [own];
  if (!references.every((reference) => typeof reference === "string")) {
    throw new RowProblem('field "references": expected a string or a list of strings');
  }
  const string = (name: string) => (typeof fields[name] === "string" ? fields[name] : "");
  const instruction = [string("instruction"), string("input")].filter((part) => part !== "").join("\n\n");
  return {
    text,
    question: instruction || string("prompt"),
    isRendered: instruction === "",
    generator: string("generator") || null,
    references,
  };
}

/** Answers by question. A question may have several. */
export class References {
  readonly #answers = new Map<string, string[]>();
  /** Questions by length, the longest first; made when one is searched for inside a prompt. */
  #byLength: string[] | null = null;

  /** Takes a training row. Throws RowProblem where it is none; a row without question and answer is passed over. */
  add(value: unknown): void {
    const pair = questionAndAnswer(parseRow(value, { vocabSize: Number.MAX_SAFE_INTEGER }));
    if (pair === null) return;
    this.#byLength = null;
    for (const question of pair.questions) {
      const key = normal(question);
      if (key === "") continue;
      const answers = this.#answers.get(key) ?? [];
      if (!answers.includes(pair.answer)) answers.push(pair.answer);
      this.#answers.set(key, answers);
    }
  }

  get size(): number {
    return this.#answers.size;
  }

  /** The answers to a row's question, of a rendered prompt to the longest question in it; empty of none. */
  of({ question, isRendered }: Pick<OutputRow, "question" | "isRendered">): readonly string[] {
    const key = normal(question);
    if (key === "") return [];
    const exact = this.#answers.get(key);
    if (exact !== undefined) return exact;
    if (!isRendered) return [];
    this.#byLength ??= [...this.#answers.keys()].sort((a, b) => b.length - a.length);
    const inside = this.#byLength.find((known) => ` ${key} `.includes(` ${known} `));
    return inside === undefined ? [] : this.#answers.get(inside)!;
  }
}

/** What a row asks, in the forms that outputs name it by, and its answer. */
function questionAndAnswer(row: Row): { questions: string[]; answer: string } | null {
  if (row.format === "alpaca") {
    const { instruction, input, output } = row;
    const joined = input === "" ? instruction : `${instruction}\n\n${input}`;
    return { questions: [joined, alpacaPrompt(instruction, input)], answer: output ?? "" };
  }
  if (row.format === "prompt-completion") return { questions: [row.prompt], answer: row.completion ?? "" };
  if (row.format !== "messages") return null;
  const last = row.messages.at(-1);
  const asked = row.messages.at(-2);
  if (last?.role !== "assistant" || asked?.role !== "user") return null;
  return { questions: [asked.content ?? ""], answer: last.content ?? "" };
}

function normal(text: string): string {
  return wordsOf(text).join(" ");
}
