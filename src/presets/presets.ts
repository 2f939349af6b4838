// The presets of models/, embedded in the executable: names that stand for a model or data set on the Hub, and recipes of
// options. A preset in a file of one's own is read by the same rules.

import { readFileSync } from "node:fs";
import { parse as parseToml } from "smol-toml";
import * as v from "valibot";
import alpaca from "../../models/data/alpaca.toml";
import alpacaEval from "../../models/data/alpaca-eval.toml";
import evolInstruct from "../../models/data/evol-instruct.toml";
import openPlatypus from "../../models/data/open-platypus.toml";
import sharegpt from "../../models/data/sharegpt.toml";
import llama2Small from "../../models/llama2-7b.toml";
import llama2SmallChat from "../../models/llama2-7b-chat.toml";
import llama2Large from "../../models/llama2-13b.toml";
import llama2LargeChat from "../../models/llama2-13b-chat.toml";
import llama31 from "../../models/llama3.1-8b.toml";
import llama32Small from "../../models/llama3.2-1b.toml";
import llama32Large from "../../models/llama3.2-3b.toml";
import llama3 from "../../models/llama3-8b.toml";
import llama3Instruct from "../../models/llama3-8b-instruct.toml";
import mistral from "../../models/mistral-7b.toml";
import mistralInstruct from "../../models/mistral-7b-instruct.toml";
import qwen25Small from "../../models/qwen2.5-0.5b.toml";
import qwen25Middle from "../../models/qwen2.5-1.5b.toml";
import qwen25Large from "../../models/qwen2.5-7b.toml";
import qwen25Instruct from "../../models/qwen2.5-7b-instruct.toml";
import qwen3Small from "../../models/qwen3-0.6b.toml";
import qwen3Middle from "../../models/qwen3-1.7b.toml";
import qwen3Large from "../../models/qwen3-8b.toml";
import neftuneRecipe from "../../models/recipes/neftune.toml";
import qloraRecipe from "../../models/recipes/qlora.toml";
import smollm2Large from "../../models/smollm2-1.7b.toml";
import smollm2Small from "../../models/smollm2-135m.toml";
import smollm2Middle from "../../models/smollm2-360m.toml";
import tinyllama from "../../models/tinyllama-1.1b.toml";
import { FormatError } from "../errors.ts";

const text = v.pipe(v.string(), v.nonEmpty());
const count = v.pipe(v.number(), v.safeInteger(), v.minValue(1));
const repository = {
  name: text,
  title: v.optional(text),
  /** The repository's id on the Hugging Face Hub. */
  hub: v.pipe(v.string(), v.regex(/^[\w.-]+\/[\w.-]+$/, "a Hub id such as org/name")),
  revision: v.optional(text, "main"),
  licence: v.optional(text, "see its page"),
  /** The Hub hands it out to those alone who accepted its conditions. */
  gated: v.optional(v.boolean(), false),
  /** Where its facts were read. */
  source: v.optional(text),
};
const modelSchema = v.strictObject({
  kind: v.literal("model"),
  ...repository,
  /** What --prompt-template is where it is not given. */
  prompt_template: v.optional(text),
  /** config.json's fields. */
  architecture: v.optional(v.record(v.string(), v.unknown())),
});
const datasetSchema = v.strictObject({
  kind: v.literal("dataset"),
  ...repository,
  /** Paths in the repository, or patterns. Default: the split's files. */
  files: v.optional(v.array(text)),
  /** What its rows are, as data.md calls the formats. For people: rows are recognized by their fields. */
  format: v.optional(text),
  rows: v.optional(count),
  /** Of the download. */
  bytes: v.optional(count),
  /** What --alpha is where nothing else says. */
  alpha: v.optional(v.pipe(v.number(), v.minValue(0))),
});
const recipeSchema = v.strictObject({
  kind: v.literal("recipe"),
  name: text,
  title: text,
  options: v.record(v.string(), v.union([v.string(), v.number(), v.boolean()])),
});

export type ModelPreset = v.InferOutput<typeof modelSchema>;
export type DatasetPreset = v.InferOutput<typeof datasetSchema>;
export type Recipe = v.InferOutput<typeof recipeSchema>;

function check<T extends v.GenericSchema>(schema: T, table: unknown, path: string): v.InferOutput<T> {
  const result = v.safeParse(schema, table);
  if (result.success) return result.output;
  const issue = result.issues[0];
  const key = v.getDotPath(issue);
  throw new FormatError(path, `${key === null ? "the preset" : key}: ${issue.message}`);
}

const embedded = <T extends v.GenericSchema>(schema: T, tables: readonly unknown[]) =>
  tables.map((table) => check(schema, table, `models/${String((table as { name?: unknown }).name)}.toml`));

export const modelPresets: readonly ModelPreset[] = embedded(modelSchema, [
  ...[llama2Small, llama2Large, llama2SmallChat, llama2LargeChat],
  ...[llama3, llama3Instruct, llama31, llama32Small, llama32Large],
  ...[tinyllama, smollm2Small, smollm2Middle, smollm2Large],
  ...[mistral, mistralInstruct, qwen25Small, qwen25Middle, qwen25Large, qwen25Instruct],
  ...[qwen3Small, qwen3Middle, qwen3Large],
]);

export const datasetPresets: readonly DatasetPreset[] = embedded(datasetSchema, [
  ...[alpaca, evolInstruct, sharegpt, openPlatypus, alpacaEval],
]);

export const recipes: readonly Recipe[] = embedded(recipeSchema, [neftuneRecipe, qloraRecipe]);

/** True for the name of a preset in a file of one's own. */
export const isPresetFile = (name: string) => name.toLowerCase().endsWith(".toml");

function findPreset<T extends v.GenericSchema>(
  option: string,
  name: string,
  schema: T,
  presets: readonly (v.InferOutput<T> & { name: string })[],
): v.InferOutput<T> | undefined {
  if (!isPresetFile(name)) return presets.find((preset) => preset.name === name);
  let table: unknown;
  try {
    table = parseToml(readFileSync(name, "utf8"));
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    const reason = missing ? "no such file" : ((error as Error).message.split("\n")[0] ?? "cannot be read");
    throw new FormatError(`${option} ${name}`, reason, { cause: error });
  }
  return check(schema, table, name);
}

/** The preset of that name, or in that .toml file; undefined where `name` is neither. Throws FormatError for a malformed file. */
export function modelPreset(name: string): ModelPreset | undefined {
  return findPreset("--model", name, modelSchema, modelPresets);
}

/** The same for data sets. */
export function datasetPreset(name: string): DatasetPreset | undefined {
  return findPreset("--dataset", name, datasetSchema, datasetPresets);
}
