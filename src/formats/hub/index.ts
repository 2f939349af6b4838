// Models and data sets of the Hugging Face Hub: out of the cache where it has what a run needs, else downloaded.
// A client of our own: @huggingface/hub 2.17 starts anew after an interruption, checks no hash, takes no locks, knows no
// HF_HUB_OFFLINE and names some blobs otherwise than Python's huggingface_hub does.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { NeftuneError } from "../../errors.ts";
import { shardsOf } from "../checkpoint.ts";
import {
  type Environment,
  findRepo,
  hubCacheDir,
  parseRepoName,
  type RepoKind,
  repoFolderName,
} from "../hub-cache.ts";
import { type ClientOptions, HubClient } from "./client.ts";
import { sizeOf } from "./layout.ts";
import { type DownloadReporter, downloadFiles, type Listing, listRepo, rememberRevision } from "./repo.ts";
import { type ModelNeed, missingModelFiles, modelTextFiles, modelWeightFile } from "./select.ts";
import { cardFiles, filesMatching, lacksShards, matchingFiles } from "./select-data.ts";
import { hubSettings } from "./settings.ts";

export type { Patience } from "./client.ts";
export { type Pushed, type PushOptions, type PushReporter, type PushRequest, pushFiles } from "./push.ts";
export type { DownloadReporter } from "./repo.ts";
export { type ModelNeed, missingModelFiles, modelTextFiles } from "./select.ts";
export { type HubSettings, hubSettings, pageOf } from "./settings.ts";

/** The largest tokenizers have some 50 MB. */
const MOST_TEXT_BYTES = 256 * 2 ** 20;

export interface HubOptions extends Omit<ClientOptions, "note"> {
  env: Environment;
  reporter: DownloadReporter;
}

/**
 * The folder of a model `org/name[@revision]` with what `need` says in it: the cache's, if it is whole, without asking
 * the Hub; else the Hub's newest of that revision, downloaded. `check` sees the folder when config.json is there, and
 * throws where the rest is not worth downloading. Throws NeftuneError, UsageError, InterruptedError.
 */
export async function obtainModel(
  name: string,
  need: ModelNeed,
  options: HubOptions,
  check: (folder: string) => void = () => {},
): Promise<string> {
  const cached = cachedFolder("model", name, options.env);
  const missing = cached === null ? null : missingModelFiles(cached, need);
  if (missing?.length === 0) return cached!;
  const { reporter } = options;
  const [client, listing] = await list("model", name, options, missing);
  const { first, last } = modelTextFiles(listing.names);
  expectText(listing, [...first, ...last]);
  const weights = need === "weights" ? modelWeightFile(listing.id, listing.names) : null;
  const index = weights !== null && !weights.endsWith(".safetensors") ? [weights] : [];
  // A few kilobytes are not worth a line.
  const quiet = { ...reporter, onStart: () => {}, onProgress: () => {}, onDone: () => {} };
  const folder = await downloadFiles(client, listing, [...first, ...index], quiet);
  check(folder);
  let late = last;
  if (weights !== null) late = [...last, ...(index.length > 0 ? shardsOf(folder) : [weights])];
  await downloadFiles(client, listing, late, reporter);
  rememberRevision(client, listing);
  return folder;
}

/** Configs, tokenizers and templates are read as a whole: throws NeftuneError where one is announced too large for that. */
function expectText({ id, details }: Listing, names: readonly string[]): void {
  for (const name of names) {
    const bytes = details.get(name)?.bytes ?? 0;
    if (bytes <= MOST_TEXT_BYTES) continue;
    const most = `${MOST_TEXT_BYTES / 2 ** 20} MiB`;
    throw new NeftuneError("hub", `${id}: ${name} has ${bytes} bytes; expected at most ${most}`);
  }
}

/** A data set's files. */
export interface ObtainedData {
  folder: string;
  /** Paths within the folder, in order. */
  files: string[];
}

/** What is asked of a data set's repository. */
export interface DataWish {
  /** Splits by preference; null for train, or what there is. */
  splits: readonly string[] | null;
  /** Paths or patterns of the files that are wanted, whatever the split. */
  patterns?: readonly string[] | undefined;
  /** Chooses among all files by their names, where neither patterns nor the card do. Throws where it cannot. */
  choose: (names: readonly string[], splits: DataWish["splits"], where: string) => string[];
}

/**
 * Data files of `org/name[@revision]`: the cache's where it holds what `wish` asks for, else the Hub's. Throws
 * NeftuneError ("dataset" where no files can be chosen), UsageError, InterruptedError.
 */
export async function obtainData(name: string, wish: DataWish, options: HubOptions): Promise<ObtainedData> {
  const where = `--dataset ${name}`;
  const folder = cachedFolder("dataset", name, options.env);
  const cached = (): ObtainedData | null => {
    const files = folder === null ? [] : choice(filesIn(folder), wish, null, where);
    return folder === null || lacksShards(files) ? null : { folder, files };
  };
  const { offline } = hubSettings(options.env);
  // Only paths and patterns say whether a cache has all that is meant: it may hold one file or one split of many.
  if (folder !== null && (offline || wish.patterns !== undefined)) {
    try {
      const found = cached();
      if (found !== null) return found;
    } catch (error) {
      // The Hub may have what the cache lacks.
      if (!(error instanceof NeftuneError) || offline) throw error;
    }
  }
  try {
    const [client, listing] = await list("dataset", name, options, folder === null ? null : ["some shards"]);
    const files = choice(listing.names, wish, listing.card, where);
    const path = await downloadFiles(client, listing, files, options.reporter);
    rememberRevision(client, listing);
    return { folder: path, files };
  } catch (error) {
    const found = error instanceof NeftuneError && error.code === "hub" ? cached() : null;
    if (found === null) throw error;
    options.reporter.note(
      `${(error as NeftuneError).message}. Taken from the cache: ${found.files.join(", ")}`,
    );
    return found;
  }
}

function choice(names: readonly string[], wish: DataWish, card: unknown, where: string): string[] {
  if (wish.patterns !== undefined) return matchingFiles(names, wish.patterns, where);
  return cardFiles(names, wish.splits, card, where) ?? wish.choose(names, wish.splits, where);
}

/** How much of what a run needs the cache has. */
export type CacheState = "whole" | "partial" | "absent";

/** Of a model `org/name[@revision]`. */
export function modelCacheState(name: string, env: Environment): CacheState {
  const folder = cachedFolder("model", name, env);
  try {
    if (folder !== null && missingModelFiles(folder, "weights").length === 0) return "whole";
  } catch (error) {
    // A damaged index: who uses the model is told.
    if (!(error instanceof NeftuneError)) throw error;
  }
  return hasFolder("model", name, env) ? "partial" : "absent";
}

/** Of a data set whose files are named by paths or patterns. */
export function dataCacheState(name: string, patterns: readonly string[], env: Environment): CacheState {
  const folder = cachedFolder("dataset", name, env);
  const files = folder === null ? [] : filesMatching(filesIn(folder), patterns);
  if (files.length > 0 && !lacksShards(files)) return "whole";
  return hasFolder("dataset", name, env) ? "partial" : "absent";
}

function hasFolder(kind: RepoKind, name: string, env: Environment): boolean {
  const parsed = parseRepoName(name);
  return parsed !== null && existsSync(join(hubCacheDir(env), repoFolderName(kind, parsed.id)));
}

/** Paths of the files in a snapshot; a link whose blob is gone counts for nothing. */
function filesIn(folder: string): string[] {
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" });
  return names.filter((name) => sizeOf(join(folder, name)) >= 0);
}

/** The snapshot of a name in the cache; null where there is none. */
export function cachedFolder(kind: RepoKind, name: string, env: Environment): string | null {
  try {
    return findRepo(kind, name, env).dir;
  } catch (error) {
    if (error instanceof NeftuneError && error.code === "not_found") return null;
    throw error;
  }
}

async function list(
  kind: RepoKind,
  name: string,
  options: HubOptions,
  missing: readonly string[] | null,
): Promise<[HubClient, Listing]> {
  const { env, reporter } = options;
  const parsed = parseRepoName(name);
  const settings = hubSettings(env);
  // Where there is no asking the Hub, findRepo says all that is wrong.
  if (parsed === null) findRepo(kind, name, env);
  if (settings.offline) throw offlineError(kind, name, env, missing);
  const client = new HubClient(settings, {
    signal: options.signal,
    note: (text) => reporter.note(text),
    ...(options.patience === undefined ? {} : { patience: options.patience }),
  });
  return [client, await listRepo(client, kind, parsed!.id, parsed!.revision)];
}

/** What HF_HUB_OFFLINE leaves to say: `missing` are files of a snapshot; null where there is none. */
function offlineError(
  kind: RepoKind,
  name: string,
  env: Environment,
  missing: readonly string[] | null,
): NeftuneError {
  const reason = "HF_HUB_OFFLINE keeps it from being downloaded; unset that";
  if (missing !== null) {
    const files = missing.slice(0, 3).join(", ");
    return new NeftuneError("not_found", `${name} in the Hugging Face cache lacks ${files}, and ${reason}`);
  }
  try {
    findRepo(kind, name, env);
  } catch (error) {
    if (!(error instanceof NeftuneError)) throw error;
    return new NeftuneError(error.code, `${error.message} ${reason}`, { cause: error });
  }
  return new NeftuneError("not_found", `${name}: ${reason}`);
}
