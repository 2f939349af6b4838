// Which files of a data set's repository are wanted: those that a preset names, or that the card's `configs` list
// (https://huggingface.co/docs/hub/datasets-manual-configuration).

import { NeftuneError, UsageError } from "../../errors.ts";

const SHARD = /-(\d{5})-of-(\d{5})/;
const LISTED = 6;

const some = (names: readonly string[]) =>
  names.slice(0, LISTED).join(", ") + (names.length > LISTED ? `, … (${names.length} in all)` : "");

/** The files of those names, or of those that patterns (data/train-*.parquet) fit, in order. */
export function filesMatching(names: readonly string[], patterns: readonly string[]): string[] {
  const sorted = [...names].sort();
  const files = patterns.flatMap((pattern) => {
    const glob = new Bun.Glob(pattern.replace(/^\.\//, ""));
    return sorted.filter((name) => name === pattern || glob.match(name));
  });
  return [...new Set(files)];
}

/** `filesMatching`, at least one. Throws NeftuneError where there is none. */
export function matchingFiles(
  names: readonly string[],
  patterns: readonly string[],
  where: string,
): string[] {
  const files = filesMatching(names, patterns);
  if (files.length > 0) return files;
  const held = names.length === 0 ? "no files" : some([...names].sort());
  throw new NeftuneError("dataset", `${where} has no file ${patterns.join(", ")}; it has ${held}`);
}

interface Configuration {
  config_name?: unknown;
  default?: unknown;
  data_files?: unknown;
}

/**
 * The files that the header of a data set's card lists for its default configuration, of the first of the splits
 * `wanted` that it has. Null where the header says nothing that could be followed. Throws NeftuneError, UsageError.
 */
export function cardFiles(
  names: readonly string[],
  wanted: readonly string[] | null,
  card: unknown,
  where: string,
): string[] | null {
  const listed = (card as { configs?: unknown } | null | undefined)?.configs;
  const configs = (Array.isArray(listed) ? (listed as Configuration[]) : []).filter(
    (config) => config?.data_files != null,
  );
  const chosen =
    configs.find((config) => config.default === true) ??
    configs.find(({ config_name }) => config_name === "default") ??
    configs[0];
  if (chosen === undefined) return null;
  if (configs.length > 1 && chosen.default !== true && chosen.config_name !== "default") {
    const known = configs.map(({ config_name }) => String(config_name));
    throw new NeftuneError(
      "dataset",
      `${where} has several configurations (${some(known)}) and no default; give a file of one: org/name/FILE`,
    );
  }
  const splits = splitsOf(chosen.data_files);
  if (splits === null) return null;
  const preferred = wanted ?? ["train"];
  const byName = preferred.map((name) => splits.find(({ split }) => split === name));
  const split =
    byName.find((found) => found !== undefined) ??
    (wanted === null && splits.length === 1 ? splits[0] : undefined);
  if (split === undefined) {
    throw new UsageError(
      `${where} has no split ${preferred.join(" or ")}; it has ${some(splits.map((entry) => entry.split))}: choose with --split`,
    );
  }
  return matchingFiles(names, split.patterns, where);
}

/** The forms that `data_files` takes: a pattern, patterns, or splits with theirs. */
function splitsOf(value: unknown): { split: string; patterns: string[] }[] | null {
  const entries: unknown[] = Array.isArray(value) ? value : [value];
  const isText = (entry: unknown) => typeof entry === "string";
  if (entries.every(isText)) return [{ split: "train", patterns: entries }];
  const splits: { split: string; patterns: string[] }[] = [];
  for (const entry of entries) {
    const { split, path } = (entry ?? {}) as { split?: unknown; path?: unknown };
    const patterns: unknown[] = Array.isArray(path) ? path : [path];
    if (typeof split !== "string" || !patterns.every(isText)) return null;
    splits.push({ split, patterns });
  }
  return splits;
}

/** True where shards are numbered 00000-of-00003 and some of them are absent. */
export function lacksShards(files: readonly string[]): boolean {
  const counts = new Map<string, number>();
  for (const file of files) {
    const of = SHARD.exec(file)?.[2];
    if (of === undefined) continue;
    const stem = file.slice(0, file.search(SHARD)) + of;
    counts.set(stem, (counts.get(stem) ?? 0) + 1);
  }
  return [...counts].some(([stem, count]) => count < Number(stem.slice(-5)));
}
