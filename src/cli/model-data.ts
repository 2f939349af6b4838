// What commands that read a model and data have in common: options, and how they become files, samples and a model.

import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { Dataset, type DatasetStats, loadDataset } from "../data/dataset.ts";
import type { TemplateDate } from "../data/template-date.ts";
import { NeftuneError, UsageError } from "../errors.ts";
import type { Environment } from "../formats/hub-cache.ts";
import { openAdapter } from "../formats/peft.ts";
import { adapterLoraOptions, checkpointSource, Llama, loadAdapter } from "../model/index.ts";
import type { Device } from "../native/index.ts";
import type { Context } from "./command.ts";
import { countOf, formatCount } from "./format.ts";
import type { OptionTable } from "./options.ts";
import { datasetDownloadHint, type Located, locateDataset, locateModel } from "./presets.ts";

export const modelOption = {
  type: "string",
  value: "NAME|DIR|ID",
  help: "a preset (llama2-7b), a local folder, or a Hub id org/name[@revision] in the Hugging Face cache; required",
} as const;

export const adapterOption = {
  type: "path",
  value: "DIR",
  help: "a PEFT LoRA adapter to put on the model",
} as const;

export const dtypeOption = {
  type: "enum",
  values: ["bf16", "f32"],
  default: "bf16",
  help: "activations and frozen weights",
} as const;

/** What --prompt-template takes. */
export const templateHelp =
  "alpaca, chat (the tokenizer's chat template), vicuna or a Jinja file, which gets messages (of role and content), bos_token, eos_token and add_generation_prompt";

const dataGroup = "Data";

/** How rows become tokens: the same for training, evaluation and preview. */
export const encodingOptions = {
  "prompt-template": {
    type: "string",
    group: dataGroup,
    value: "NAME|FILE",
    help: `${templateHelp}, for all rows; else by each row's format`,
  },
  "max-length": {
    type: "int",
    group: dataGroup,
    default: 512,
    min: 1,
    help: "longer samples are cut to so many tokens",
  },
  "skip-bad-rows": {
    type: "bool",
    group: dataGroup,
    default: false,
    help: "leave out rows that cannot be read and count them; otherwise the first one ends the command",
  },
  "parse-special": {
    type: "bool",
    group: dataGroup,
    default: false,
    help: "text in the data that looks like a special token (</s>) is that token",
  },
} as const satisfies OptionTable;

export interface EncodingValues {
  "prompt-template": string | undefined;
  "max-length": number;
  "skip-bad-rows": boolean;
  "parse-special": boolean;
}

/** Finds the model of --model. Throws UsageError where the option is missing. */
export async function requireModel(
  name: string | undefined,
  command: string,
  context: Context,
): Promise<Located> {
  if (name === undefined) {
    throw new UsageError(
      `${command} needs --model: a preset (llama2-7b), a folder, or a Hub id in the cache`,
    );
  }
  return locateModel(name, context.env);
}

export interface LocatedData extends Located {
  /** The data files, in order: one, or the shards of a split. `path` is the first. */
  files: readonly string[];
}

/** The data files of a --dataset: the file itself, or those of a data set's folder. */
export async function datasetFiles(name: string, context: Context): Promise<LocatedData> {
  const found = datasetFile(name, context.env);
  return { ...found, files: [found.path] };
}

function datasetFile(name: string, env: Environment): Located {
  const located = locateDataset(name, env);
  const { path } = located;
  if (statSync(path).isFile()) return located;
  const files = readdirSync(path, { recursive: true, encoding: "utf8" }).sort();
  const json = files.filter(
    (file) => /\.(json|jsonl|ndjson)$/i.test(file) && !/(^|\/)(dataset_infos?|\.)/.test(file),
  );
  if (json.length === 1) return { ...located, path: join(path, json[0]!) };
  const others = files.filter((file) => /\.(parquet|csv|tsv)$/i.test(file));
  const found =
    json.length > 1
      ? `holds several: ${json.slice(0, 5).join(", ")}; give one of them as --dataset`
      : others.length > 0
        ? `holds ${others[0]}. ${datasetDownloadHint(name) ?? "This version reads .json and .jsonl files: convert it to one of them"}`
        : "holds none";
  throw new NeftuneError(
    "dataset",
    `--dataset ${name}: expected a JSON or JSON Lines file in ${path}, which ${found}`,
  );
}

/** Loads and tokenises data sets and joins them. `templateDate` is what a template's strftime_now gives; default: today. */
export async function loadDatasets(
  paths: readonly string[],
  tokenizerDir: string,
  encoding: EncodingValues,
  vocabSize: number,
  templateDate?: TemplateDate,
): Promise<Dataset> {
  const loaded = paths.map((path) =>
    loadDataset({
      path,
      tokenizerDir,
      ...(encoding["prompt-template"] === undefined ? {} : { template: encoding["prompt-template"] }),
      maxLength: encoding["max-length"],
      skipBadRows: encoding["skip-bad-rows"],
      parseSpecial: encoding["parse-special"],
      vocabSize,
      templateDate,
    }),
  );
  return Dataset.concat(await Promise.all(loaded));
}

/** One line about a data set, with what a user should know of it. */
export function describeDataset(name: string, stats: DatasetStats, maxLength: number): string {
  const parts = [
    countOf(stats.rows - stats.skipped, "sample"),
    countOf(stats.tokens, "token"),
    countOf(stats.targetTokens, "target"),
  ];
  if (stats.truncated > 0) parts.push(`${formatCount(stats.truncated)} cut to ${maxLength} tokens`);
  if (stats.noTarget > 0) parts.push(`${formatCount(stats.noTarget)} with no target left`);
  if (stats.skipped > 0) parts.push(`${countOf(stats.skipped, "bad row")} left out`);
  return `${name}: ${parts.join(", ")}`;
}

/** Says what was found in a data set, its skipped rows included. */
export function noteDataset(context: Context, name: string, dataset: Dataset, maxLength: number): void {
  context.note(describeDataset(name, dataset.stats, maxLength));
  for (const problem of dataset.problems) context.note(`  ${problem}`);
}

interface InferenceLimits {
  maxTokens: number;
  maxTargets: number;
  maxPosition: number;
}

/** A model, with its adapter where there is one, to evaluate or generate with. The caller closes it. */
export function loadForInference(
  device: Device,
  dir: string,
  adapterDir: string | undefined,
  dtype: "f32" | "bf16",
  limits: InferenceLimits,
): Llama {
  const source = checkpointSource(dir);
  if (adapterDir === undefined) {
    return Llama.load(device, source, { dtype, tune: "none", recompute: "layer", ...limits, seed: 0 });
  }
  if (!existsSync(adapterDir)) throw new NeftuneError("not_found", `--adapter ${adapterDir}: no such folder`);
  const adapter = openAdapter(adapterDir);
  const lora = { ...adapterLoraOptions(adapterDir, adapter.config, source.config), dropout: 0 };
  const model = Llama.load(device, source, {
    dtype,
    tune: "lora",
    lora,
    recompute: "layer",
    inference: true,
    ...limits,
    seed: 0,
  });
  try {
    loadAdapter(model.parameters!, adapter);
  } catch (error) {
    model.close();
    throw error;
  }
  return model;
}
