// From the words behind --model and --dataset to files: a path, a preset, or a Hub id that the cache has or the Hub gives.

import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { chooseDataFiles } from "../../data/splits.ts";
import { about, NeftuneError, UsageError } from "../../errors.ts";
import { type HubOptions, type ModelNeed, obtainData, obtainModel } from "../../formats/hub/index.ts";
import { findRepo } from "../../formats/hub-cache.ts";
import { readConfig } from "../../model/config.ts";
import { suggestion } from "../../nearest.ts";
import {
  type DatasetPreset,
  datasetPreset,
  datasetPresets,
  type ModelPreset,
  modelPreset,
  modelPresets,
} from "../../presets/presets.ts";
import type { Context } from "../command.ts";
import { downloadReporter } from "../terminal/download-progress.ts";

export interface Located {
  /** A folder, or of a data set a file. */
  path: string;
  /** Short name for output folders: the preset's, or the last part of the path or id. */
  label: string;
  /** What files call it: the Hub id, or the path as it was given. */
  name: string;
}

export interface LocatedModel extends Located {
  preset?: ModelPreset;
}

export interface LocatedData extends Located {
  /** The data files, in order: one, or the shards of a split. `path` is the first. */
  files: readonly string[];
  preset?: DatasetPreset;
}

type Looking = Pick<Context, "env" | "signal" | "note" | "draw" | "isTerminal">;

const lastPart = (name: string) =>
  name
    .replace(/@.*$/, "")
    .replace(/\/+$/, "")
    .split("/")
    .at(-1)!
    .replace(/\.[a-z]+(?:\.(?:gz|gzip|zst|zstd))?$/i, "") || "model";

const hubOptions = (context: Looking): HubOptions => ({
  env: context.env,
  signal: context.signal,
  reporter: downloadReporter(context),
});

function kindAt(path: string): "file" | "folder" | null {
  try {
    return statSync(path).isDirectory() ? "folder" : "file";
  } catch {
    return null;
  }
}

/** The preset that --model names; undefined for folders and Hub ids. A folder of that name wins. Throws FormatError. */
export function presetOfModel(name: string): ModelPreset | undefined {
  return kindAt(name) === "folder" ? undefined : modelPreset(name);
}

/** The same of --dataset; a file of that name wins, too. */
export function presetOfData(name: string): DatasetPreset | undefined {
  const kind = kindAt(name);
  const isDataFile = kind === "file" && !name.toLowerCase().endsWith(".toml");
  return kind === "folder" || isDataFile ? undefined : datasetPreset(name);
}

/**
 * Finds a model with the files that `need` says: a folder, a preset or its .toml file, or a Hub id, downloaded where the
 * cache lacks it. Throws NeftuneError, UsageError, InterruptedError.
 */
export async function locateModel(name: string, need: ModelNeed, context: Looking): Promise<LocatedModel> {
  if (kindAt(name) === "folder") return { path: name, label: lastPart(name), name };
  const preset = presetOfModel(name);
  if (preset !== undefined) {
    const path = await obtained(`the preset ${name}`, preset.title ?? preset.hub, () =>
      obtainModel(`${preset.hub}@${preset.revision}`, need, hubOptions(context), readConfig),
    );
    return { path, label: preset.name, name: preset.hub, preset };
  }
  if (!isHubId(name, "model", context)) {
    throw new NeftuneError("not_found", about(`--model ${name}`, whatModel(name)));
  }
  const path = await obtained(`--model ${name}`, undefined, () =>
    obtainModel(name, need, hubOptions(context), readConfig),
  );
  return { path, label: lastPart(name), name };
}

/** Why a name is not a model, and what to give instead. */
function whatModel(name: string): string {
  if (kindAt(name) === "file")
    return "is a file; expected a folder that holds a model, or a preset's .toml file";
  if (name.includes("/")) return "no such folder, and not an id of the form org/name[@revision]";
  const names = modelPresets.map((known) => known.name);
  const hint = suggestion(name, names, `the presets are ${names.join(", ")}.`);
  return `neither a folder nor a preset${hint} A model on the Hub is given as org/name`;
}

/** Runs a download; what fails is told with the name that the user gave, and a preset's title. */
async function obtained<T>(what: string, title: string | undefined, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof NeftuneError) || error.code === "interrupted" || error instanceof UsageError)
      throw error;
    if (title !== undefined) {
      throw new NeftuneError(error.code, `${what} (${title}): ${error.message}`, { cause: error });
    }
    // A path that was mistyped looks like an id.
    if (error.code !== "not_found") throw error;
    throw new NeftuneError(error.code, `${what}: no such folder here, and ${error.message}`, {
      cause: error,
    });
  }
}

/** True where a name can only mean the Hub: org/name, or a name without an organization that the cache has. */
function isHubId(name: string, kind: "model" | "dataset", context: Looking): boolean {
  if (/^[\w.-]+\/[\w.-]+(?:@[\w./+-]+)?$/.test(name) && !/^\.{1,2}\//.test(name)) return true;
  if (!/^\w[\w.-]*(?:@[\w./+-]+)?$/.test(name)) return false;
  try {
    findRepo(kind, name, context.env);
    return true;
  } catch {
    return false;
  }
}

/** A name that can only mean a file. */
const DATA_FILE = /\.(?:json|jsonl|ndjson|csv|tsv|parquet|txt)(?:\.(?:gz|zst))?$/i;
/** org/name[@revision]/path/to/file.json */
const FILE_IN_REPO = /^([\w.-]+\/[\w.-]+(?:@[\w.+-]+)?)\/(.+)$/;

/**
 * Finds a data set's files: a file, a folder's data files, a preset or its .toml file, or a Hub id (a file in it too:
 * org/name/data.json), downloaded where the cache lacks it. `splits` are parts of it by preference, null for train or
 * whatever there is. Throws NeftuneError, UsageError, InterruptedError.
 */
export async function locateData(
  name: string,
  splits: readonly string[] | null,
  context: Looking,
): Promise<LocatedData> {
  const kind = kindAt(name);
  const preset = presetOfData(name);
  if (kind === "file" && preset === undefined) {
    if (splits !== null && splits.length === 1) {
      throw new UsageError(
        `--split ${splits[0]}: ${name} is one file; --split chooses among the files of a folder or Hub data set`,
      );
    }
    return { path: name, files: [name], label: lastPart(name), name };
  }
  if (preset !== undefined) {
    const isWhole = splits === null || splits.includes("train");
    const found = await obtained(`the preset ${name}`, preset.title ?? preset.hub, () =>
      fromHub(`${preset.hub}@${preset.revision}`, splits, isWhole ? preset.files : undefined, context),
    );
    return { ...found, label: preset.name, name: preset.hub, preset };
  }
  if (kind === "folder") {
    const names = readdirSync(name, { recursive: true, encoding: "utf8" });
    const files = chooseDataFiles(names, splits, `--dataset ${name}`).map((file) => join(name, file));
    return { path: files[0]!, files, label: lastPart(name), name };
  }
  const inRepo = DATA_FILE.test(name) ? FILE_IN_REPO.exec(name) : null;
  // What starts as a folder that is here names a file in it.
  if (inRepo !== null && !existsSync(name.split("/")[0]!)) {
    const [, repo = "", file = ""] = inRepo;
    return { ...(await fromHub(repo, null, [file], context)), label: lastPart(file), name };
  }
  const names = datasetPresets.map((known) => known.name);
  if (DATA_FILE.test(name)) {
    throw new NeftuneError(
      "not_found",
      `--dataset ${name}: no such file; expected a data file, a preset (${names.join(", ")}) or a Hub id`,
    );
  }
  expectDataName(name, context);
  const found = await obtained(`--dataset ${name}`, undefined, () =>
    fromHub(name, splits, undefined, context),
  );
  return { ...found, label: lastPart(name), name };
}

/** Throws where a word is not a file, preset or Hub id, before anything is downloaded. */
export function expectDataWords(names: readonly string[], context: Looking): void {
  for (const name of names)
    if (/^[\w-]+$/.test(name) && kindAt(name) === null && presetOfData(name) === undefined)
      expectDataName(name, context);
}

function expectDataName(name: string, context: Looking): void {
  const names = datasetPresets.map((known) => known.name);
  if (!isHubId(name, "dataset", context)) {
    const hint = suggestion(name, names, `the presets are ${names.join(", ")}.`);
    throw new NeftuneError(
      "not_found",
      `--dataset ${name}: neither a file nor a preset${hint} A data set on the Hub is given as org/name`,
    );
  }
}

async function fromHub(
  name: string,
  splits: readonly string[] | null,
  patterns: readonly string[] | undefined,
  context: Looking,
): Promise<{ path: string; files: string[] }> {
  const wish = { splits, patterns, choose: chooseDataFiles };
  const { folder, files } = await obtainData(name, wish, hubOptions(context));
  const paths = files.map((file) => join(folder, file));
  return { path: paths[0]!, files: paths };
}
