// Notes on how a data set's rows were encoded, as sentences.

import type { FileNotes } from "../../data/dataset.ts";
import { type Remark, remarks } from "../../data/encoding-notes.ts";
import type { TemplateDate } from "../../data/template-date.ts";
import { countOf } from "../terminal/format.ts";

/** The part before the place of the first row. */
const sentences: Readonly<Record<Remark, (rows: string) => string>> = {
  "empty-answer": (rows) => `${rows} with an empty answer`,
  "end-alone": (rows) => `${rows} in which only the end of an answer is trained`,
  "changed-answer": (rows) => `${rows} in which the template drops or changes part of an answer`,
  "other-prompt": (rows) =>
    `${rows} in which the template's generation prompt is not what stands before the answer in training`,
  "no-stop": (rows) =>
    `${rows} without a stop: no special token stands after the answer, so generation will not learn to end`,
  dated: (rows) => `${rows} with the date in the template's own text`,
};

/** Prompts whose template wrote the date, as rows are noted. `date`: what fixes it; undefined: it is fixed. */
export const datedNote = (prompts: string, date: TemplateDate | undefined): string =>
  `${sentences.dated(prompts)}${fixedBy(date)}`;

const fixedBy = (date: TemplateDate | undefined): string =>
  date === undefined ? "" : `; --template-date ${date} gives the same tokens on another day`;

/** A line for each remark, with how many rows and the first, and one for the columns that nothing read. */
export function rowNotes(notes: readonly FileNotes[]): string[] {
  const lines: string[] = [];
  for (const remark of remarks) {
    const files = notes.filter((file) => file.remarks[remark] !== undefined);
    const first = files[0];
    if (first === undefined) continue;
    const rows = files.reduce((sum, file) => sum + file.remarks[remark]!.rows, 0);
    const place = `${first.path}${first.remarks[remark]!.first}`;
    const kept = remark === "dated" ? fixedBy(first.date) : "";
    lines.push(`${sentences[remark](countOf(rows, "row"))} (${rows === 1 ? "" : "first "}${place})${kept}`);
  }
  const unused = [...new Set(notes.flatMap((file) => file.unused))];
  if (unused.length > 0) lines.push(`columns not used: ${unused.join(", ")}`);
  return lines;
}
