// Which files of a data set's folder are its rows: the names that the Hub's own loader goes by.

import { NeftuneError, UsageError } from "../errors.ts";

/** Words in file and folder names that say which part of a data set a file is. */
const SPLIT_WORDS: Readonly<Record<string, readonly string[]>> = {
  train: ["train", "training"],
  validation: ["validation", "valid", "val", "dev"],
  test: ["test", "testing", "eval", "evaluation"],
};
const SHARD = /(?:^|\/)([^/]+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.[^/]+$/;
const DATA_NAME = /\.(?:parquet|(?:json|jsonl|ndjson|csv|tsv)(?:\.(?:gz|zst))?)$/i;
/** Descriptions of a data set that lie beside its rows. */
const DESCRIPTION = /(?:^|\/)(?:dataset_infos?\.json|\.[^/]*|\.[^/]*\/.*)$/;

/** True for a file that rows can be read from, going by its name. */
function isDataName(name: string): boolean {
  return DATA_NAME.test(name) && !DESCRIPTION.test(name);
}

/** The split that a file belongs to by its name (`data/train-00000-of-00002.parquet`, `test.csv`, `train/a.json`), or null. */
export function splitOf(name: string): string | null {
  const sharded = SHARD.exec(name)?.[1];
  if (sharded !== undefined) {
    // the Hub's own pattern: what stands before the number is the split, as it is (train_sft)
    const exact = Object.entries(SPLIT_WORDS).find(([, words]) => words.includes(sharded.toLowerCase()));
    return exact?.[0] ?? (/^\w+$/.test(sharded) ? sharded : (wordSplit(sharded) ?? sharded));
  }
  for (const part of name.split("/").reverse()) {
    const split = wordSplit(part.replace(DATA_NAME, ""));
    if (split !== null) return split;
  }
  return null;
}

/** A word counts where no letter or digit touches it. */
function wordSplit(text: string): string | null {
  const parts = text.toLowerCase().split(/[^a-z0-9]+/);
  for (const [split, words] of Object.entries(SPLIT_WORDS)) {
    if (parts.some((part) => words.includes(part))) return split;
  }
  return null;
}

/**
 * The files of a folder that make up a split, in order. `wanted` are splits by preference; null takes `train`, or
 * what there is where no file's name says a split. `where` names the folder in errors. Throws UsageError where the
 * split is not there, NeftuneError where the files cannot be told to be one data set.
 */
export function chooseDataFiles(
  names: readonly string[],
  wanted: readonly string[] | null,
  where: string,
): string[] {
  const data = names.filter(isDataName).sort();
  if (data.length === 0) {
    throw new NeftuneError(
      "dataset",
      `${where}: expected a .json, .jsonl, .parquet or .csv file, found ${names.length === 0 ? "none" : names.slice(0, 5).join(", ")}`,
    );
  }
  const bySplit = new Map<string | null, string[]>();
  for (const name of data) {
    const split = splitOf(name);
    bySplit.set(split, [...(bySplit.get(split) ?? []), name]);
  }
  const known = [...bySplit.keys()].filter((split) => split !== null);
  if (wanted !== null && known.length === 0 && !wanted.includes("train")) {
    throw new UsageError(`${where}: no file's name says its split; expected ${wanted.join(" or ")}`);
  }
  const preferred = wanted ?? ["train"];
  const found = preferred.find((split) => bySplit.has(split));
  if (found === undefined && known.length > 0 && (wanted !== null || known.length > 1)) {
    throw new UsageError(
      `${where} has no split ${preferred.join(" or ")}; --split ${known.join(", --split ")} ${known.length === 1 ? "is" : "are"} there`,
    );
  }
  const chosen = bySplit.get(found ?? known[0] ?? null)!;
  return oneDataSet(chosen, where);
}

/** Several files are one data set where they are numbered shards, or all lie in a folder of the split's name. */
function oneDataSet(files: readonly string[], where: string): string[] {
  const kinds = new Set(files.map((file) => DATA_NAME.exec(file)![0].toLowerCase()));
  const related = kinds.size === 1 && files.every((file) => SHARD.test(file) || inNumberedFolder(file));
  if (files.length === 1 || related) return [...files];
  const more = files.length > 5 ? ", …" : "";
  throw new NeftuneError(
    "dataset",
    `${where} holds several: ${files.slice(0, 5).join(", ")}${more}; give one of them as --dataset`,
  );
}

/** `default/train/0000.parquet`, as the Hub's conversion to Parquet names its files. */
function inNumberedFolder(file: string): boolean {
  return /(?:^|\/)\d+\.[^/]+$/.test(file);
}
