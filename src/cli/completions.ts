// The completions that generate makes, and the rows of its output file.

import { extname } from "node:path";
import { type ColumnNames, renamed } from "../data/columns.ts";
import type { Prompt } from "../data/encode.ts";
import { parseRow, RowProblem } from "../data/formats.ts";
import { formatCount } from "./terminal/format.ts";
import { escapeJson } from "./terminal/text.ts";

export interface Asked extends Prompt {
  /** The row it comes from. */
  row: unknown;
}

export interface Completion {
  /** What was asked: the row's own words, without a template's. */
  instruction: string;
  /** What the model was given. */
  prompt: string;
  output: string;
  output_ids: number[];
  /** stop: the model ended it; length: --max-new-tokens did. */
  finish_reason: "stop" | "length";
}

export function completionOf(
  { row, text }: Asked,
  columns: ColumnNames | undefined,
  ids: ArrayLike<number>,
  output: string,
  eosIds: readonly number[],
): Completion {
  const output_ids = Array.from(ids);
  const isStopped = output_ids.length > 0 && eosIds.includes(output_ids.at(-1)!);
  return {
    instruction: questionOf(row, columns) ?? text,
    prompt: text,
    output,
    output_ids,
    finish_reason: isStopped ? "stop" : "length",
  };
}

/** The question of a row, as `neftune analyze` and AlpacaEval know it; null of text and ids. */
function questionOf(value: unknown, columns: ColumnNames | undefined): string | null {
  try {
    const rules = { vocabSize: Number.MAX_SAFE_INTEGER, forGeneration: true };
    const row = parseRow(columns === undefined ? value : renamed(value, columns), rules);
    switch (row.format) {
      case "alpaca":
        return [row.instruction, row.input].filter((part) => part !== "").join("\n\n");
      case "prompt-completion":
        return row.prompt;
      case "messages":
        return row.messages.slice(0, row.asking).findLast(({ role }) => role === "user")?.content ?? null;
      default:
        return null;
    }
  } catch (error) {
    if (error instanceof RowProblem) return null;
    throw error;
  }
}

/** AlpacaEval's model_outputs: one object for each instruction. `dataset` is for rows that do not name theirs. */
export function alpacaEvalRows(
  asked: readonly Asked[],
  completions: readonly Completion[],
  generator: string,
  dataset: string,
) {
  return completions.map(({ instruction, output }, i) => {
    const own = (asked[i]!.row as { dataset?: unknown } | null)?.dataset;
    return { dataset: typeof own === "string" && own !== "" ? own : dataset, instruction, output, generator };
  });
}

/** The text of an output file: one line per row, in .json as one array. */
export function rowsText(path: string, rows: readonly unknown[]): string {
  const lines = rows.map((row) => escapeJson(JSON.stringify(row)));
  if (extname(path) === ".jsonl") return lines.map((line) => `${line}\n`).join("");
  return lines.length === 0 ? "[]\n" : `[\n${lines.join(",\n")}\n]\n`;
}

/** Notes on completions, one per line. Without a tokenizer (`hasText` false) they have no text. */
export function completionNotes(
  completions: readonly Completion[],
  maxNewTokens: number,
  hasText: boolean,
): string[] {
  const cut = completions.filter(({ finish_reason }) => finish_reason === "length").length;
  const empty = hasText ? completions.filter(({ output }) => output.trim() === "").length : 0;
  const isOne = completions.length === 1;
  const some = (count: number) =>
    isOne ? "the completion" : `${formatCount(count)} of ${formatCount(completions.length)} completions`;
  const notes: string[] = [];
  if (cut > 0)
    notes.push(`${some(cut)} ${cut === 1 ? "was" : "were"} cut at --max-new-tokens ${maxNewTokens}`);
  if (empty > 0) notes.push(`${some(empty)} ${empty === 1 ? "is" : "are"} empty`);
  return notes;
}
