// The presets of models/: names that stand for a Hub repository, and shapes for init and bench. Embedded.

import { existsSync, readFileSync, statSync } from "node:fs";
import alpaca from "../../models/alpaca.toml";
import llama2 from "../../models/llama2-7b.toml";
import shapesTable from "../../models/shapes.toml";
import { FormatError, NeftuneError, UsageError } from "../errors.ts";
import { type Environment, findModel, findRepo, hubCacheDir } from "../formats/hub-cache.ts";
import { type LlamaConfig, parseConfig } from "../model/config.ts";
import { suggestion } from "./nearest.ts";

type Table = Readonly<Record<string, unknown>>;

export interface Preset {
  name: string;
  title: string;
  /** The repository's id on the Hugging Face Hub. */
  hub: string;
  revision: string;
  licence: string;
  /** Of a data set: where its rows are as a JSON file. */
  file?: string;
  /** Of a model: its config.json's fields. */
  architecture?: Table;
}

function preset(table: Table): Preset {
  for (const key of ["name", "title", "hub", "revision", "licence"]) {
    if (typeof table[key] !== "string")
      throw new FormatError(`models/${String(table.name)}.toml`, `${key} is missing`);
  }
  return table as unknown as Preset;
}

export const modelPresets: readonly Preset[] = [llama2].map(preset);
export const datasetPresets: readonly Preset[] = [alpaca].map(preset);

const shapes = new Map<string, Table>([
  ...Object.entries(shapesTable as Record<string, Table>),
  ...modelPresets.map((model) => [model.name, model.architecture ?? {}] as const),
]);

export const shapeNames: readonly string[] = ["m25", "s135m", "t1b", "l1b", "llama2-7b", "llama3-8b"].filter(
  (name) => shapes.has(name),
);

/** The config of a shape's name or of a config.json. Throws UsageError where it is neither, FormatError where it is malformed. */
export function readShape(name: string): LlamaConfig {
  const shape = shapes.get(name);
  if (shape !== undefined) {
    return parseConfig(`shape ${name}`, { model_type: "llama", bos_token_id: 1, eos_token_id: 2, ...shape });
  }
  if (!existsSync(name) || statSync(name).isDirectory()) {
    const hint = suggestion(name, shapeNames, `the shapes are ${shapeNames.join(", ")}`);
    throw new UsageError(`--shape ${name}: neither a shape nor a config.json file${hint}`);
  }
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(name, "utf8"));
  } catch (cause) {
    throw new FormatError(name, "is not valid JSON", { cause });
  }
  return parseConfig(name, json);
}

export interface Located {
  /** A folder, or of a data set also a file. */
  path: string;
  /** Short name for output folders: the preset's, or the last part of the path or id. */
  label: string;
  /** What files call it: the Hub id, or the path as it was given. */
  name: string;
}

const lastPart = (name: string) =>
  name
    .replace(/@.*$/, "")
    .replace(/\/+$/, "")
    .split("/")
    .at(-1)!
    .replace(/\.[a-z]+$/i, "") || "model";

/** Finds a model: a preset, a folder, or a Hub id in the cache. Throws NeftuneError that says where it looked. */
export function locateModel(name: string, env: Environment): Located {
  const known = modelPresets.find((candidate) => candidate.name === name);
  if (known === undefined || statSync(name, { throwIfNoEntry: false })?.isDirectory()) {
    return { path: findUnknown(name, env), label: lastPart(name), name };
  }
  try {
    return { path: findModel(`${known.hub}@${known.revision}`, env).dir, label: known.name, name: known.hub };
  } catch (error) {
    if (!(error instanceof NeftuneError)) throw error;
    throw new NeftuneError(
      error.code,
      `the preset ${name} stands for ${known.hub} (${known.title}): ${error.message}`,
      { cause: error },
    );
  }
}

function findUnknown(name: string, env: Environment): string {
  try {
    return findModel(name, env).dir;
  } catch (error) {
    const names = modelPresets.map((candidate) => candidate.name);
    if (!(error instanceof NeftuneError) || error.code !== "not_found") throw error;
    throw new NeftuneError(error.code, `${error.message} Presets: ${names.join(", ")}.`, { cause: error });
  }
}

/** A name that can only mean a file. */
const DATA_FILE = /\.(json|jsonl|ndjson|csv|tsv|parquet|txt)$/i;

/** Finds a data set: a file, a preset, or a Hub id in the cache, whose JSON file is taken. */
export function locateDataset(name: string, env: Environment): Located {
  if (statSync(name, { throwIfNoEntry: false })?.isFile()) return { path: name, label: lastPart(name), name };
  const known = datasetPresets.find((candidate) => candidate.name === name);
  if (known !== undefined) {
    try {
      const { dir } = findRepo("dataset", `${known.hub}@${known.revision}`, env);
      return { path: dir, label: known.name, name: known.hub };
    } catch (error) {
      if (!(error instanceof NeftuneError)) throw error;
      const remedy = downloadHint(known);
      if (remedy === undefined || error.code !== "not_found") throw error;
      throw new NeftuneError(
        error.code,
        `the preset ${name} stands for the data set ${known.hub} (${known.title}), which is not in the Hugging Face cache (${hubCacheDir(env)}). ${remedy}`,
        { cause: error },
      );
    }
  }
  if (DATA_FILE.test(name) && !existsSync(name)) {
    throw new NeftuneError(
      "not_found",
      `--dataset ${name}: no such file; expected a .json or .jsonl file, ${datasetPresets.map((preset) => preset.name).join(", ")} or a Hub id in the cache`,
    );
  }
  return { path: findRepo("dataset", name, env).dir, label: lastPart(name), name };
}

/** How to get a preset's rows in a form that is read here. */
function downloadHint({ file }: Preset): string | undefined {
  if (file === undefined) return undefined;
  const name = file.split("/").at(-1)!;
  return `This version reads .json and .jsonl files: download ${file} and give it with --dataset ${name}`;
}

/** The same for the data set that `name` is the preset of; undefined where it is none. */
export function datasetDownloadHint(name: string): string | undefined {
  const known = datasetPresets.find((candidate) => candidate.name === name || candidate.hub === name);
  return known && downloadHint(known);
}
