// What commands that read a model and data have in common: options, and how they become files and samples.

import { existsSync } from "node:fs";
import type { ColumnNames } from "../../data/columns.ts";
import type { Dataset } from "../../data/dataset.ts";
import { ROW_FIELDS } from "../../data/formats.ts";
import { type DataRequest, type EncodingOptions, loadMix } from "../../data/load-mix.ts";
import { parseWeighted } from "../../data/mix.ts";
import type { LossOn } from "../../data/script.ts";
import { openSource, rowsOf } from "../../data/source.ts";
import type { TemplateDate } from "../../data/template-date.ts";
import { UsageError } from "../../errors.ts";
import type { ModelNeed } from "../../formats/hub/index.ts";
import { readConfig } from "../../model/index.ts";
import { suggestion } from "../../nearest.ts";
import { trainingOptions } from "../../options/table.ts";
import type { Context } from "../command.ts";
import { countOf, formatCount } from "../terminal/format.ts";
import { type LocatedData, type LocatedModel, locateData, locateModel } from "./locate.ts";
import { rowNotes } from "./row-notes.ts";

export const adapterOption = {
  type: "path",
  value: "DIR",
  help: "apply this PEFT LoRA adapter to the model",
} as const;

export const dtypeOption = {
  type: "enum",
  values: trainingOptions.dtype.values,
  default: trainingOptions.dtype.default,
  help: "type of activations and frozen weights",
} as const;

export interface ReadingValues {
  columns?: readonly string[] | undefined;
  split?: string | undefined;
  samples?: number | undefined;
}

export interface EncodingValues extends ReadingValues {
  "prompt-template": string | undefined;
  "template-date"?: TemplateDate | undefined;
  "loss-on"?: LossOn | undefined;
  "max-length": number;
  "skip-bad-rows": boolean;
  "parse-special": boolean;
}

/** Throws UsageError where --model is missing: before anything is downloaded. */
export function expectModel(name: string | undefined, command: string): string {
  if (name !== undefined) return name;
  throw new UsageError(
    `${command} needs --model: a preset (llama2-7b; neftune models lists them), a folder, or a Hub id org/name`,
  );
}

/**
 * Finds the model of --model, downloading what `need` says and the cache lacks. Throws UsageError where the option is
 * missing.
 */
export async function requireModel(
  name: string | undefined,
  command: string,
  context: Context,
  need: ModelNeed = "weights",
): Promise<LocatedModel> {
  return locateModel(expectModel(name, command), need, context);
}

/**
 * The data files of a --dataset: the file itself, or those of a data set's folder. `splits` are parts of it by
 * preference, null for train or whatever there is.
 */
export function datasetFiles(
  name: string,
  context: Context,
  splits: readonly string[] | null = null,
): Promise<LocatedData> {
  return locateData(name, splits, context);
}

/** Finds the data sets of a repeated --dataset, one after the other, so that downloads do not compete. */
export async function requireData(
  given: readonly string[],
  context: Context,
  splits: readonly string[] | null,
): Promise<(LocatedData & DataRequest)[]> {
  const found: (LocatedData & DataRequest)[] = [];
  for (const text of given) {
    const { name, weight } = parseWeighted(text, existsSync);
    found.push({ ...(await datasetFiles(name, context, splits)), weight });
  }
  return found;
}

/** The names in a repeated --dataset, without their weights. */
export const dataNames = (given: readonly string[]) =>
  given.map((text) => parseWeighted(text, existsSync).name);

/** The splits that --split asks for. */
export function wantedSplits({ split }: Pick<ReadingValues, "split">): readonly string[] | null {
  return split === undefined ? null : [split];
}

/** What --columns says. Throws UsageError for a field that no format has. */
export function columnNames({ columns }: Pick<ReadingValues, "columns">): ColumnNames | undefined {
  if (columns === undefined) return undefined;
  const names: Record<string, string> = {};
  for (const pair of columns) {
    const [field = "", column = "", ...more] = pair.split("=");
    if (field === "" || column === "" || more.length > 0) {
      throw new UsageError(`--columns ${pair}: expected FIELD=COLUMN, such as instruction=question`);
    }
    if (!ROW_FIELDS.includes(field)) {
      const hint = suggestion(field, ROW_FIELDS, `the fields are ${ROW_FIELDS.join(", ")}`);
      throw new UsageError(`--columns ${pair}: no format has a field ${field}${hint}`);
    }
    if (Object.hasOwn(names, field)) throw new UsageError(`--columns names ${field} twice`);
    names[field] = column;
  }
  return names;
}

/** How long a signal may wait while rows are read. */
const YIELD_MILLISECONDS = 50;

/** The rows of data files one after the other, as many as --samples allows, the broken ones with their problem. */
export async function* dataRows(
  files: readonly string[],
  values: ReadingValues,
  signal?: AbortSignal,
): AsyncGenerator<{ row: unknown; problem: string | null; where: string }, void, void> {
  const columns = Object.values(columnNames(values) ?? {});
  let left = values.samples ?? Number.POSITIVE_INFINITY;
  let yieldedAt = performance.now();
  for (const path of files) {
    for await (const row of rowsOf(openSource(path, { columns, signal }))) {
      if (performance.now() - yieldedAt > YIELD_MILLISECONDS) {
        await Bun.sleep(0);
        yieldedAt = performance.now();
      }
      yield row;
      if (--left <= 0) return;
    }
  }
}

/** How the options say that rows become tokens. */
export function encodingOf(values: EncodingValues): EncodingOptions {
  return {
    template: values["prompt-template"],
    templateDate: values["template-date"],
    lossOn: values["loss-on"],
    maxLength: values["max-length"],
    columns: columnNames(values),
    samples: values.samples,
    skipBadRows: values["skip-bad-rows"],
    parseSpecial: values["parse-special"],
  };
}

/** Says how many rows of a file are tokenized, in the line that the next one takes the place of. */
export const drawRows = ({ draw }: Pick<Context, "draw">, path: string, rows: number) =>
  draw(`${path}: ${countOf(rows, "row")} tokenized`);

/**
 * Loads data for the model in `dir`. Without --template-date a template's strftime_now returns `templateDate`; undefined:
 * today.
 */
export async function loadData(
  requests: readonly DataRequest[],
  dir: string,
  values: EncodingValues,
  { seed, templateDate }: { seed: number; templateDate: TemplateDate | undefined },
  context: Context,
): Promise<Dataset> {
  const encoding = encodingOf(values);
  const { dataset } = await loadMix(requests, {
    ...encoding,
    tokenizerDir: dir,
    vocabSize: readConfig(dir).vocabSize,
    seed,
    templateDate: encoding.templateDate ?? templateDate,
    signal: context.signal,
    onProgress: (path, rows) => drawRows(context, path, rows),
  });
  context.draw("");
  return dataset;
}

/** One line about a data set, with what a user should know of it. */
function describeDataset(name: string, dataset: Dataset, maxLength: number): string {
  const { stats } = dataset;
  const parts = [
    countOf(stats.rows - stats.skipped, "sample"),
    countOf(stats.tokens, "token"),
    countOf(stats.targetTokens, "target"),
  ];
  const duplicates = dataset.countDuplicates();
  if (duplicates > 0) parts.push(countOf(duplicates, "duplicate"));
  if (stats.truncated > 0) parts.push(`${formatCount(stats.truncated)} cut to ${maxLength} tokens`);
  if (stats.noTarget > 0) parts.push(`${formatCount(stats.noTarget)} with no target left`);
  if (stats.skipped > 0) parts.push(`${countOf(stats.skipped, "bad row")} left out`);
  return `${name}: ${parts.join(", ")}`;
}

/** Says what was found in a data set, its skipped rows included. */
export function noteDataset(context: Context, name: string, dataset: Dataset, maxLength: number): void {
  context.note(describeDataset(name, dataset, maxLength));
  for (const problem of dataset.problems) context.note(`  ${problem}`);
  for (const line of rowNotes(dataset.notes)) context.note(`  ${line}`);
}
