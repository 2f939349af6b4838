// The runs' answers, measured as `neftune analyze` measures outputs.

import { type Measures, measureOutputs } from "../analysis/outputs.ts";
import type { Table } from "./html.ts";
import type { Run } from "./run.ts";

/** Null of a run without answers. */
export function measuresOf({ answers }: Run): Measures | null {
  const outputs = answers.last.map(({ output, references }) => ({ text: output, references }));
  return outputs.length === 0 ? null : measureOutputs(outputs, null);
}

const shown: readonly { title: string; text: (measures: Measures) => string | undefined }[] = [
  { title: "answers", text: ({ outputs }) => String(outputs) },
  { title: "words, mean", text: ({ words }) => words?.toFixed(1) },
  {
    title: "2-gram repetition",
    text: ({ repetition_2: share }) => (share === null ? undefined : `${(100 * share).toFixed(2)} %`),
  },
  { title: "log-diversity", text: ({ log_diversity }) => log_diversity?.toFixed(3) },
  { title: "ROUGE-L", text: ({ rouge_l }) => rouge_l?.toFixed(4) },
  { title: "BLEU", text: ({ bleu }) => bleu?.toFixed(2) },
];

/** A row for each measure that any run has, with its title and each run's value; empty where no run has answers. */
export function measureRows(all: readonly (Measures | null)[], missing = "–"): string[][] {
  const rows = shown.map(({ title, text }) => ({
    title,
    values: all.map((one) => (one === null ? undefined : text(one))),
  }));
  return rows
    .filter(({ values }) => values.some((value) => value !== undefined))
    .map(({ title, values }) => [title, ...values.map((value) => value ?? missing)]);
}

/** The same as a table; null where no run has answers. */
export function measuresTable(all: readonly { name: string; answers: Measures | null }[]): Table | null {
  const rows = measureRows(all.map(({ answers }) => answers));
  if (rows.length === 0) return null;
  const numeric = all.map((_, i) => i + 1);
  return { caption: "Answers, measured", head: ["measure", ...all.map(({ name }) => name)], rows, numeric };
}
