// neftune analyze: outputs judged as the paper does, offline.

import { basename } from "node:path";
import { type Measures, measureOutputs, type Output } from "../analysis/outputs.ts";
import { type OutputRow, outputRow, References } from "../analysis/references.ts";
import { renamed } from "../data/columns.ts";
import { RowProblem } from "../data/formats.ts";
import { openSource, RowError, rowsOf } from "../data/source.ts";
import { NeftuneError, UsageError } from "../errors.ts";
import { readingOptions } from "../options/data.ts";
import { type Context, defineCommand } from "./command.ts";
import {
  columnNames,
  dataRows,
  datasetFiles,
  type ReadingValues,
  wantedSplits,
} from "./inputs/model-data.ts";
import { countOf, fitTable, formatCount, toJson } from "./terminal/format.ts";

interface Analysis extends Measures {
  file: string;
  generator: string | null;
}

export const analyze = defineCommand({
  positionals: {
    usage: "OUTPUT…",
    min: 1,
    max: Number.POSITIVE_INFINITY,
    help: "OUTPUT is a file of model outputs: what neftune generate writes (prompt, output) or AlpacaEval's form (instruction, output, generator), as JSON, JSON Lines, CSV or Parquet.",
  },
  description: [
    "Measures outputs as section 5 of the NEFTune paper (arXiv 2310.05914) does, in one column per file. Needs no model and no network.",
    "words: separated by white space. 2-gram repetition: the mean over outputs of 1 - distinct 2-grams / 2-grams. log-diversity: the mean of -log(1 - (1 - rep-2)(1 - rep-3)(1 - rep-4)), at most 20 (arXiv 2306.04634, 2210.15097); higher means less repetition. Longer texts repeat more: --words 50 compares the first 50 words of outputs at least that long, as the paper does (50 for Alpaca, 100 for Evol-Instruct, 150 for ShareGPT and OpenPlatypus).",
    "ROUGE-L: the mean F1 of the longest common subsequence, as in Google's rouge-score without stemming, 0 to 1. BLEU: over all outputs together, as sacreBLEU computes it by default, 0 to 100. References are a row's own reference or references, or with --train the answers to the same question. With several references, ROUGE-L takes the best and BLEU matches any. Outputs without a reference are left out of both.",
  ].join("\n"),
  options: {
    train: {
      type: "string",
      value: "NAME|FILE|ID",
      help: "data set whose answers to the same instructions serve as references",
    },
    words: {
      type: "int",
      default: 0,
      min: 0,
      help: "measure repetition and diversity over the first N words, leaving out shorter outputs; 0 uses whole outputs",
    },
    ...readingOptions,
  },
  examples: [
    ["neftune analyze plain.json noisy.json --words 50", "length, repetition and diversity side by side"],
    [
      "neftune analyze plain.jsonl noisy.jsonl --train alpaca_data.json",
      "also how close the answers are to those of the training data",
    ],
  ],
  async run(values, context) {
    const [stray] = Object.keys(readingOptions).filter((name) => context.given.has(name));
    if (values.train === undefined && stray !== undefined) {
      throw new UsageError(`--${stray} says how to read the data of --train; give --train as well`);
    }
    const files: { path: string; rows: OutputRow[] }[] = [];
    for (const path of context.positionals) files.push({ path, rows: await readOutputs(path) });
    const references =
      values.train === undefined ? null : await readReferences(values.train, values, context);
    const cut = values.words === 0 ? null : values.words;
    const analyses = files.map(({ path, rows }): Analysis => {
      const outputs = rows.map((row): Output => {
        const found = references === null ? row.references : references.of(row);
        return { text: row.text, references: found };
      });
      const generators = new Set(rows.map(({ generator }) => generator));
      const measures = measureOutputs(outputs, cut);
      if (references !== null && measures.compared === 0) {
        throw new NeftuneError(
          "dataset",
          `${path}: none of its ${countOf(rows.length, "output")} answers an instruction of --train ${values.train}; give the data set that they were generated from`,
        );
      }
      return { file: path, generator: generators.size === 1 ? [...generators][0]! : null, ...measures };
    });
    if (values.json) context.print(toJson({ words: values.words, files: analyses }));
    else context.print(table(analyses, cut, context.columns));
  },
});

/** The outputs in a file. Throws RowError, NeftuneError where it has none. */
export async function readOutputs(path: string): Promise<OutputRow[]> {
  const rows: OutputRow[] = [];
  const source = openSource(path, { columns: ["reference", "references"] });
  for await (const { row, problem, where } of rowsOf(source)) {
    if (problem !== null) throw new RowError(where, problem);
    rows.push(located(where, () => outputRow(row)));
  }
  if (rows.length === 0) throw new NeftuneError("dataset", `${path} has no rows`);
  return rows;
}

async function readReferences(name: string, values: ReadingValues, context: Context): Promise<References> {
  const { files } = await datasetFiles(name, context, wantedSplits(values));
  const columns = columnNames(values) ?? {};
  const references = new References();
  for await (const { row, problem, where } of dataRows(files, values)) {
    if (problem !== null) throw new RowError(where, problem);
    located(where, () => references.add(renamed(row, columns)));
  }
  if (references.size > 0) return references;
  throw new NeftuneError("dataset", `--train ${name}: no row has a question and an answer`);
}

/** Runs `work`; what is wrong with a row is told with its place. */
function located<T>(where: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof RowProblem)) throw error;
    throw new RowError(where, error.message, { cause: error });
  }
}

/** A row a measure, a column a file. */
function table(analyses: readonly Analysis[], cut: number | null, columns: number | undefined): string {
  const row = (label: string, show: (analysis: Analysis) => string) => [label, ...analyses.map(show)];
  const fixed = (value: number | null, digits: number) => value?.toFixed(digits) ?? "-";
  const names = analyses.map(({ file }) => basename(file));
  const areDistinct = new Set(names).size === names.length;
  const some = cut === null ? "" : `, first ${cut} words`;
  const rows = [["", ...analyses.map(({ file }, i) => (areDistinct ? names[i]! : file))]];
  if (analyses.some(({ generator }) => generator !== null)) {
    rows.push(row("generator", ({ generator }) => generator ?? "-"));
  }
  rows.push(
    row("outputs", ({ outputs }) => formatCount(outputs)),
    row("words, mean", ({ words }) => fixed(words, 1)),
    row("characters, mean", ({ characters }) => fixed(characters, 1)),
  );
  if (analyses.some(({ measured, outputs }) => measured < outputs)) {
    rows.push(row("long enough to measure", ({ measured }) => formatCount(measured)));
  }
  rows.push(
    row(`2-gram repetition${some}`, ({ repetition_2 }) =>
      repetition_2 === null ? "-" : `${(100 * repetition_2).toFixed(2)} %`,
    ),
    row(`log-diversity${some}`, ({ log_diversity }) => fixed(log_diversity, 3)),
  );
  if (analyses.some(({ compared }) => compared > 0)) {
    rows.push(
      row("with references", ({ compared }) => formatCount(compared)),
      row("ROUGE-L", ({ rouge_l }) => fixed(rouge_l, 4)),
      row("BLEU", ({ bleu }) => fixed(bleu, 2)),
    );
  }
  if (analyses.some(({ empty }) => empty > 0))
    rows.push(row("empty outputs", ({ empty }) => formatCount(empty)));
  return fitTable(
    rows,
    analyses.map((_, i) => i + 1),
    columns,
  );
}
