// Which files of a data set are wanted: those that a preset names, that the card's `configs` list, or that are named
// as a split is (https://huggingface.co/docs/hub/datasets-file-names-and-splits).

/** What is asked of a data set's repository. */
export interface DataWish {
  /** Default: train, or all there is where nothing is named as a split. */
  split?: string | undefined;
  /** Paths or patterns (data/train-*.parquet), of which files are wanted whatever the split. */
  patterns?: readonly string[] | undefined;
}

/** The files in order; or why none can be chosen, which goes on the words "the data set org/name". */
export type DataChoice = { files: string[] } | { problem: string };

const dataFile = /\.(?:parquet|jsonl|ndjson|json|csv|tsv)(?:\.(?:gz|zst))?$/i;
const metadata = /(?:^|\/)(?:\.[^/]*|dataset_infos?\.json|state\.json|[^/]*config\.json)$/i;
/** Names that mean the same split. */
const splitWords: Readonly<Record<string, readonly string[]>> = {
  train: ["train", "training"],
  validation: ["validation", "valid", "val", "dev"],
  test: ["test", "testing", "eval", "evaluation"],
};
const preference = ["parquet", "jsonl", "ndjson", "json", "csv", "tsv"];
const SHARD = /-(\d{5})-of-(\d{5})/;
const LISTED = 6;

const isWord = (path: string, word: string) =>
  new RegExp(`(?:^|[/._ -]|\\d)${RegExp.escape(word)}(?:[/._ -]|\\d|$)`, "i").test(path);

const wordsOf = (split: string) =>
  Object.values(splitWords).find((words) => words.includes(split.toLowerCase())) ?? [split];

const kindOf = (path: string) =>
  path
    .toLowerCase()
    .replace(/\.(?:gz|zst)$/, "")
    .split(".")
    .at(-1)!;

const some = (names: readonly string[]) =>
  names.slice(0, LISTED).join(", ") + (names.length > LISTED ? `, … (${names.length} in all)` : "");

/** `card` is the header of the data set's README, as the Hub's API gives it. */
export function chooseDataFiles(names: readonly string[], wish: DataWish, card?: unknown): DataChoice {
  const sorted = [...names].sort();
  if (wish.patterns !== undefined) return matching(sorted, wish.patterns);
  const all = sorted.filter((name) => dataFile.test(name) && !metadata.test(name));
  if (all.length === 0) {
    const found = names.length === 0 ? "it is empty" : `it holds ${some(sorted)}`;
    return { problem: `has no .parquet, .json, .jsonl or .csv file: ${found}` };
  }
  return fromCard(sorted, wish, card) ?? bySplit(all, wish);
}

function matching(names: readonly string[], patterns: readonly string[]): DataChoice {
  const files = patterns.flatMap((pattern) => {
    const glob = new Bun.Glob(pattern.replace(/^\.\//, ""));
    return names.filter((name) => name === pattern || glob.match(name));
  });
  if (files.length > 0) return { files: [...new Set(files)] };
  const data = names.filter((name) => dataFile.test(name));
  return {
    problem: `has no file ${patterns.join(", ")}; it has ${some(data.length > 0 ? data : names) || "none"}`,
  };
}

interface Configuration {
  config_name?: unknown;
  default?: unknown;
  data_files?: unknown;
}

/** By the card's `configs`: the default one. Null where the card has none that could be followed. */
function fromCard(names: readonly string[], wish: DataWish, card: unknown): DataChoice | null {
  const listed = (card as { configs?: unknown } | null | undefined)?.configs;
  const configs = (Array.isArray(listed) ? (listed as Configuration[]) : []).filter(
    (config) => config?.data_files != null,
  );
  if (configs.length === 0) return null;
  const chosen =
    configs.find((config) => config.default === true) ??
    configs.find(({ config_name }) => config_name === "default") ??
    (configs.length === 1 ? configs[0] : undefined);
  if (chosen === undefined) {
    const known = configs.map(({ config_name }) => String(config_name));
    return {
      problem: `has several configurations (${some(known)}); give a file of one: ${some(names.filter((name) => dataFile.test(name)))}`,
    };
  }
  const splits = splitsOf(chosen.data_files);
  if (splits === null) return null;
  const words = wordsOf(wish.split ?? "train");
  const split =
    splits.find((entry) => words.includes(entry.split)) ??
    (wish.split === undefined && splits.length === 1 ? splits[0] : undefined);
  if (split === undefined) {
    return {
      problem: `has no split ${wish.split ?? "train"}; it has ${some(splits.map((entry) => entry.split))}: choose with --split`,
    };
  }
  return matching(names, split.patterns);
}

/** The forms that `data_files` takes: a pattern, patterns, or splits with theirs. */
function splitsOf(value: unknown): { split: string; patterns: string[] }[] | null {
  const entries = Array.isArray(value) ? value : [value];
  if (entries.every((entry) => typeof entry === "string")) return [{ split: "train", patterns: entries }];
  const splits: { split: string; patterns: string[] }[] = [];
  for (const entry of entries) {
    const { split, path } = (entry ?? {}) as { split?: unknown; path?: unknown };
    const patterns = Array.isArray(path) ? path : [path];
    if (typeof split !== "string" || !patterns.every((pattern) => typeof pattern === "string")) return null;
    splits.push({ split, patterns });
  }
  return splits;
}

function bySplit(all: readonly string[], { split }: DataWish): DataChoice {
  const inSplit = (words: readonly string[]) =>
    all.filter((name) => words.some((word) => isWord(name, word)));
  const wanted = oneKind(inSplit(wordsOf(split ?? "train")));
  if (wanted.length > 0) return oneSet(wanted);
  const splits = Object.keys(splitWords).filter((name) => inSplit(splitWords[name]!).length > 0);
  if (split !== undefined && (split !== "train" || splits.length > 0)) {
    return { problem: `has no split ${split} that its files' names show: ${some(all)}` };
  }
  const named = new Set(splits.flatMap((name) => inSplit(splitWords[name]!)));
  const others = oneKind(all.filter((name) => !named.has(name)));
  if (others.length > 0) return oneSet(others);
  return { problem: `has no split train; it has ${some(splits)}: choose with --split` };
}

/** Of the same rows in several kinds of file, one kind. */
function oneKind(names: readonly string[]): string[] {
  const kind = preference.find((kind) => names.some((name) => kindOf(name) === kind));
  return names.filter((name) => kindOf(name) === kind);
}

/** Shards of one set, or one file; several sets are for the user to choose from. */
function oneSet(names: string[]): DataChoice {
  const stems = new Set(names.map((name) => name.replace(SHARD, "").replaceAll(/\d+/g, "#")));
  if (stems.size === 1) return { files: names };
  return { problem: `has several files that could be meant: ${some(names)}; give one: ORG/NAME/FILE` };
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
