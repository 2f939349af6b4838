// What commands that read a model and data have in common: options, and how they become files, samples and a model.

import { existsSync } from "node:fs";
import type { ColumnNames } from "../data/columns.ts";
import { Dataset } from "../data/dataset.ts";
import { ROW_FIELDS } from "../data/formats.ts";
import { loadDataset } from "../data/load-dataset.ts";
import { parseWeighted } from "../data/mix.ts";
import type { LossOn } from "../data/script.ts";
import { openSource, rowsOf } from "../data/source.ts";
import type { TemplateDate } from "../data/template-date.ts";
import { NeftuneError, UsageError } from "../errors.ts";
import type { ModelNeed } from "../formats/hub/index.ts";
import { openAdapter } from "../formats/peft.ts";
import { adapterLoraOptions, type Llama, loadAdapter } from "../model/index.ts";
import type { Device } from "../native/index.ts";
import { suggestion } from "../nearest.ts";
import { trainingOptions } from "../options/table.ts";
import type { Context } from "./command.ts";
import { countOf, formatCount } from "./format.ts";
import { type LocatedData, type LocatedModel, locateData, locateModel } from "./locate.ts";
import { loadModel, type QuantizationValues } from "./quantization.ts";
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

/** A data set that was asked for, and how much of it. */
export interface DataRequest {
  name: string;
  files: readonly string[];
  /** How often its samples are used in an epoch; see mix.ts. */
  weight: number;
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

export interface LoadedData {
  dataset: Dataset;
  /** For a run's config.json. */
  record: Readonly<Record<string, unknown>>;
}

/**
 * Loads and tokenizes data sets and mixes them by their weights; `seed` draws the parts. `templateDate` is what a
 * template's strftime_now gives; default: today.
 */
export async function loadDatasets(
  requests: readonly DataRequest[],
  tokenizerDir: string,
  encoding: EncodingValues,
  vocabSize: number,
  {
    seed,
    templateDate,
    context,
  }: { seed: number; templateDate?: TemplateDate | undefined; context: Context },
): Promise<LoadedData> {
  const template = encoding["prompt-template"];
  const columns = columnNames(encoding);
  const loadFiles = async (files: readonly string[]): Promise<Dataset> => {
    const parts: Dataset[] = [];
    let left = encoding.samples ?? Number.POSITIVE_INFINITY;
    for (const path of files) {
      if (left <= 0) break;
      const part = await loadDataset({
        path,
        tokenizerDir,
        ...(template === undefined ? {} : { template }),
        lossOn: encoding["loss-on"],
        maxLength: encoding["max-length"],
        ...(columns === undefined ? {} : { columns }),
        samples: Number.isFinite(left) ? left : null,
        skipBadRows: encoding["skip-bad-rows"],
        parseSpecial: encoding["parse-special"],
        vocabSize,
        templateDate,
        signal: context.signal,
        onProgress: (rows) => context.draw(`${path}: ${countOf(rows, "row")} tokenized`),
      });
      left -= part.stats.rows;
      parts.push(part);
    }
    return Dataset.concat(parts);
  };
  const loaded: Dataset[] = [];
  for (const { files } of requests) loaded.push(await loadFiles(files));
  context.draw("");
  const weights = requests.map(({ weight }) => weight);
  const dataset = Dataset.mix(loaded, weights, seed);
  const sets = requests.map(({ name, files, weight }, i) => {
    const { rows, skipped } = loaded[i]!.stats;
    return { name, files, weight, rows, skipped, fingerprint: loaded[i]!.fingerprint };
  });
  return { dataset, record: { sets, samples: dataset.length, duplicates: dataset.countDuplicates() } };
}

/** One line about a data set, with what a user should know of it. */
export function describeDataset(name: string, dataset: Dataset, maxLength: number): string {
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

interface InferenceLimits {
  maxTokens: number;
  maxTargets: number;
  maxPosition: number;
}

/** What `eval` and `generate` load. */
export interface InferenceModel {
  dir: string;
  adapter: string | undefined;
  dtype: "f32" | "bf16";
  /** None: the weights are used as the model has them. */
  quantization?: QuantizationValues;
}

/** A model, with its adapter where there is one, to evaluate or generate with. The caller closes it. */
export function loadForInference(
  device: Device,
  { dir, adapter: adapterDir, dtype, quantization }: InferenceModel,
  limits: InferenceLimits,
  context: Pick<Context, "note">,
): Llama {
  const common = { dtype, recompute: "layer", ...limits, seed: 0 } as const;
  if (adapterDir === undefined)
    return loadModel(device, dir, quantization, context, () => ({ ...common, tune: "none" }));
  if (!existsSync(adapterDir)) throw new NeftuneError("not_found", `--adapter ${adapterDir}: no such folder`);
  const adapter = openAdapter(adapterDir);
  const model = loadModel(device, dir, quantization, context, (config) => {
    const lora = { ...adapterLoraOptions(adapterDir, adapter.config, config), dropout: 0 };
    return { ...common, tune: "lora", lora, inference: true };
  });
  try {
    loadAdapter(model.parameters!, adapter);
  } catch (error) {
    model.close();
    throw error;
  }
  return model;
}
