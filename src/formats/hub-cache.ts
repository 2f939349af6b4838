// Finds a model or data set on this machine: a folder, or a snapshot in the Hugging Face cache, whose layout is
// documented at https://huggingface.co/docs/huggingface_hub/guides/manage-cache. Nothing here uses the network.
import { readdirSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { NeftuneError } from "../errors.ts";
import { readText } from "./io.ts";

export type RepoKind = "model" | "dataset";
export type Environment = Readonly<Record<string, string | undefined>>;

export interface FoundRepo {
  dir: string;
  source: "directory" | "cache";
}

const ID = /^(?:\w[\w.-]*\/)?\w[\w.-]*$/;
export const DEFAULT_REVISION = "main";

/** A path whose `~` is the home folder. */
export function expandHome(path: string, env: Environment): string {
  return path === "~" || path.startsWith("~/") ? join(env.HOME || homedir(), path.slice(1)) : path;
}

/** The folder of all that belongs to Hugging Face: HF_HOME, else XDG_CACHE_HOME/huggingface, else under ~/.cache. */
export function hubHome(env: Environment): string {
  if (env.HF_HOME) return expandHome(env.HF_HOME, env);
  const caches = env.XDG_CACHE_HOME
    ? expandHome(env.XDG_CACHE_HOME, env)
    : join(env.HOME || homedir(), ".cache");
  return join(caches, "huggingface");
}

/** The cache's folder: HF_HUB_CACHE (or its older name HUGGINGFACE_HUB_CACHE), else `hub` in the home of Hugging Face. */
export function hubCacheDir(env: Environment): string {
  const given = env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE;
  return given ? expandHome(given, env) : join(hubHome(env), "hub");
}

/** A repository on the Hub, as `org/name` or `org/name@revision` names it. */
export interface RepoName {
  id: string;
  /** A branch, a tag or a commit. */
  revision: string;
}

/** Reads an id with its revision (`main` where it is left out); null where `name` is none. */
export function parseRepoName(name: string): RepoName | null {
  const at = name.indexOf("@");
  const id = at < 0 ? name : name.slice(0, at);
  const revision = at < 0 ? DEFAULT_REVISION : name.slice(at + 1);
  return isId(id) && isRevision(revision) ? { id, revision } : null;
}

/** The folder of a repository in the cache, as huggingface_hub names it. */
export function repoFolderName(kind: RepoKind, id: string): string {
  return `${kind}s--${id.replaceAll("/", "--")}`;
}

/**
 * Finds `name`: a folder's path, or a Hub id `org/name` or `org/name@revision` (a branch, a tag or a commit; `main`
 * where it is left out) in the cache. A folder of that name wins. Throws NeftuneError ("not_found") that lists every
 * place it looked and says what to do.
 */
export function findRepo(kind: RepoKind, name: string, env: Environment): FoundRepo {
  const looked: string[] = [];
  const asFolder = resolve(name);
  // As the system reads it: a lexical "a/.." would find a folder where no "a" is.
  const there = kindOf(name);
  if (there === "folder") return { dir: name, source: "directory" };
  looked.push(there === "file" ? `${asFolder} (a file; expected a folder)` : `${asFolder} (no such folder)`);

  const parsed = parseRepoName(name);
  if (parsed === null) {
    looked.push(
      `not in the Hugging Face cache, as ${JSON.stringify(name)} is not an id of the form org/name[@revision]`,
    );
    throw notFound(kind, name, looked, `Give the path of a folder that holds the ${kind}, or a Hub id`);
  }
  const { id, revision } = parsed;
  const repo = join(hubCacheDir(env), repoFolderName(kind, id));
  const snapshot = findSnapshot(repo, revision, looked);
  if (snapshot) return { dir: snapshot, source: "cache" };
  const download = `hf download ${kind === "dataset" ? "--repo-type dataset " : ""}${id}${name.includes("@") ? ` --revision ${revision}` : ""}`;
  throw notFound(
    kind,
    name,
    looked,
    `Give the path of a folder, or put it in the cache first (${download}); HF_HUB_CACHE or HF_HOME say where the cache is`,
  );
}

/** `findRepo` for models. */
export function findModel(name: string, env: Environment): FoundRepo {
  return findRepo("model", name, env);
}

function findSnapshot(repo: string, revision: string, looked: string[]): string | undefined {
  if (kindOf(repo) !== "folder") {
    looked.push(`${repo} (no such folder)`);
    return undefined;
  }
  const ref = join(repo, "refs", revision);
  const commit = readRef(ref);
  if (commit !== undefined) {
    const dir = join(repo, "snapshots", commit);
    if (kindOf(dir) === "folder") return dir;
    looked.push(`${dir} (no such folder, though ${ref} names it: an unfinished download)`);
    return undefined;
  }
  const direct = join(repo, "snapshots", revision);
  if (kindOf(direct) === "folder") return direct;
  const held = list(join(repo, "refs"));
  looked.push(
    `${ref} (no such revision${held.length > 0 ? `; the cache holds ${held.join(", ")}` : ""})`,
    `${direct} (no such folder)`,
  );
  return undefined;
}

/** The commit that a ref file names. */
function readRef(path: string): string | undefined {
  if (kindOf(path) !== "file") return undefined;
  const commit = readText(path).trim();
  // It becomes a part of a path.
  return /^[0-9a-zA-Z]+$/.test(commit) ? commit : undefined;
}

function isId(id: string): boolean {
  return ID.test(id) && !id.includes("--") && !id.includes("..");
}

function isRevision(revision: string): boolean {
  return revision.split("/").every((part) => /^[\w.+-]+$/.test(part) && part !== "." && part !== "..");
}

function kindOf(path: string): "folder" | "file" | undefined {
  try {
    return statSync(path).isDirectory() ? "folder" : "file";
  } catch {
    return undefined;
  }
}

function list(dir: string): string[] {
  return kindOf(dir) === "folder" ? readdirSync(dir).sort() : [];
}

function notFound(kind: RepoKind, name: string, looked: readonly string[], remedy: string): NeftuneError {
  const thing = kind === "dataset" ? "data set" : "model";
  return new NeftuneError(
    "not_found",
    `${thing} ${JSON.stringify(name)} not found. Looked at: ${looked.join("; ")}. ${remedy}.`,
  );
}
