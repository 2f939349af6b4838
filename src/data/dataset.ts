// A data set, tokenised: loaded from a file or from rows, cached by what it was made of, joined, split.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { InterruptedError, NeftuneError, UsageError } from "../errors.ts";
import { type CachedData, CacheWriter, defaultCacheDir, readCache } from "./cache.ts";
import type { EncoderOptions } from "./encode.ts";
import type { ColumnNames } from "./formats.ts";
import { weightedIndices } from "./mix.ts";
import { holdoutOrder } from "./philox.ts";
import { countTargets, type Sample } from "./sample.ts";
import {
  fileSha256,
  openSource,
  placeOf,
  type RowBlock,
  RowError,
  type Source,
  sourceOfRows,
} from "./source.ts";
import { type TemplateDate, today } from "./template-date.ts";
import { promptTemplate } from "./templates.ts";
import type { TokenStore } from "./token-store.ts";
import { type TokenizedRows, tokenizeAll, workersFor } from "./tokenize-rows.ts";
import { SETTINGS_FILES } from "./tokenizer-settings.ts";

/** Raised whenever the same rows would become other tokens than before: it is part of every fingerprint. */
const ENCODING_VERSION = 3;
const REPORTED_PROBLEMS = 10;
const MOST_MEMORY = 2 ** 30;
/** What errors call rows that come from no file. */
const ROWS = "rows";

export interface LoadOptions {
  /** A file, or `rows` as they would be parsed from one. */
  path?: string | undefined;
  rows?: unknown[] | undefined;
  /** Folder of tokenizer.json: a model's. */
  tokenizerDir: string;
  /** `--prompt-template`: alpaca, chat, vicuna, llama2 or a Jinja file; absent, by each row's format. */
  template?: string | undefined;
  /** Tokens that longer samples are cut to; null for none. */
  maxLength: number | null;
  /** Other names of fields in the data, by the names that formats know. */
  columns?: ColumnNames | undefined;
  /** Only so many rows, the first ones; null or absent: all. */
  samples?: number | null | undefined;
  /** Leaves bad rows out and counts them; otherwise the first one is thrown as a RowError. */
  skipBadRows?: boolean | undefined;
  /** Text in data that looks like a special token is that token. */
  parseSpecial?: boolean | undefined;
  /** Ids in rows of tokens lie below it. Default: the tokenizer's; a model may have more. */
  vocabSize?: number | undefined;
  /** The day that a template's strftime_now gives. Default: today. */
  templateDate?: TemplateDate | undefined;
  /** Threads; 0 is none beside this one. Default: by size. */
  workers?: number | undefined;
  /** Bytes of ids and labels held in memory; of more, the cache's file is mapped. Default: 1 GiB. */
  mostMemory?: number | undefined;
  /** Ends the loading with an InterruptedError. */
  signal?: AbortSignal | undefined;
  /** Rows tokenised so far. */
  onProgress?: ((rows: number) => void) | undefined;
  /** Default: `$XDG_CACHE_HOME/neftune`, else `~/.cache/neftune`. Null keeps nothing. */
  cacheDir?: string | null | undefined;
}

export interface DatasetStats {
  /** Rows in the source, skipped ones included. */
  rows: number;
  truncated: number;
  /** Samples with no target left; they stay in the data set. */
  noTarget: number;
  skipped: number;
  tokens: number;
  targetTokens: number;
}

export class Dataset {
  readonly length: number;
  /** SHA-256, in hex, of all that the tokens depend on. */
  readonly fingerprint: string;
  readonly stats: DatasetStats;
  /** The first of the skipped rows: `path:line: row n: what is wrong`. */
  readonly problems: readonly string[];
  /** Tokenised rows; several samples may be the same one. */
  private readonly stores: readonly TokenStore[];
  private readonly store: Uint32Array; // [length], a sample's place in `stores`
  private readonly row: Uint32Array; // [length], and its place there

  constructor(
    stores: readonly TokenStore[],
    fingerprint: string,
    { skipped = 0, problems = [], places = allPlaces(stores) }: DatasetParts = {},
  ) {
    this.stores = stores;
    this.store = places.store;
    this.row = places.row;
    this.length = this.row.length;
    this.fingerprint = fingerprint;
    this.problems = problems;
    const stats = {
      rows: this.length + skipped,
      truncated: 0,
      noTarget: 0,
      skipped,
      tokens: 0,
      targetTokens: 0,
    };
    for (let i = 0; i < this.length; i++) {
      const { ids, labels, truncated } = this.get(i);
      const targets = countTargets(labels);
      stats.tokens += ids.length;
      stats.targetTokens += targets;
      if (truncated) stats.truncated++;
      if (targets === 0) stats.noTarget++;
    }
    this.stats = stats;
  }

  /** Sample i, whose arrays are views: not to be written to. */
  get(i: number): Sample {
    if (!Number.isInteger(i) || i < 0 || i >= this.length) {
      throw new NeftuneError("dataset", `sample ${i}: the data set has ${this.length}`);
    }
    const { starts, ids, labels, truncated } = this.stores[this.store[i]!]!;
    const row = this.row[i]!;
    const begin = starts[row]!;
    const end = starts[row + 1]!;
    return {
      ids: ids.subarray(begin, end),
      labels: labels.subarray(begin, end),
      truncated: truncated[row] === 1,
    };
  }

  /** A data set of some samples, in the order given, each as often as it is named; `name` makes its fingerprint another. */
  select(indices: ArrayLike<number>, name: string): Dataset {
    const places = {
      store: Uint32Array.from(indices, (i) => this.store[i]!),
      row: Uint32Array.from(indices, (i) => this.row[i]!),
    };
    return new Dataset(this.stores, sha256([this.fingerprint, name]), { places });
  }

  /** Data sets one behind the other. */
  static concat(datasets: readonly Dataset[]): Dataset {
    if (datasets.length === 1) return datasets[0]!;
    const length = datasets.reduce((sum, dataset) => sum + dataset.length, 0);
    const places = { store: new Uint32Array(length), row: new Uint32Array(length) };
    const stores: TokenStore[] = [];
    let at = 0;
    for (const dataset of datasets) {
      for (let i = 0; i < dataset.length; i++) places.store[at + i] = stores.length + dataset.store[i]!;
      places.row.set(dataset.row, at);
      for (const store of dataset.stores) stores.push(store);
      at += dataset.length;
    }
    return new Dataset(stores, sha256(datasets.map((dataset) => dataset.fingerprint)), {
      skipped: datasets.reduce((sum, dataset) => sum + dataset.stats.skipped, 0),
      problems: datasets.flatMap((dataset) => dataset.problems).slice(0, REPORTED_PROBLEMS),
      places,
    });
  }

  /**
   * Data sets one behind the other, each `weights[i]` times: 0.3 is a part drawn by the seed, 2 is twice. `concat`
   * where all weights are 1.
   */
  static mix(datasets: readonly Dataset[], weights: readonly number[], seed: number): Dataset {
    return Dataset.concat(
      datasets.map((dataset, i) => {
        const weight = weights[i] ?? 1;
        if (weight === 1) return dataset;
        const indices = weightedIndices(dataset.length, weight, seed, i);
        const { store, row } = dataset.select(indices, "");
        return new Dataset(dataset.stores, sha256([dataset.fingerprint, `weight ${weight} ${seed} ${i}`]), {
          skipped: dataset.stats.skipped,
          problems: dataset.problems,
          places: { store, row },
        });
      }),
    );
  }

  /** How many rows have the same tokens and labels as one before them. Rows that a weight repeats count once. */
  countDuplicates(): number {
    const distinct = this.distinct();
    const hashes = BigUint64Array.from(distinct, (i) => {
      const { ids, labels } = this.get(i);
      return Bun.hash.xxHash64(labels, Bun.hash.xxHash64(ids));
    }).sort();
    let duplicates = 0;
    for (let i = 1; i < hashes.length; i++) if (hashes[i] === hashes[i - 1]) duplicates++;
    return duplicates;
  }

  /** The first sample of every row that is in the data set, in order. */
  distinct(): Int32Array {
    const seen = this.stores.map((store) => new Uint8Array(store.truncated.length));
    const first = new Int32Array(this.length);
    let count = 0;
    for (let i = 0; i < this.length; i++) {
      const marks = seen[this.store[i]!]!;
      if (marks[this.row[i]!] === 1) continue;
      marks[this.row[i]!] = 1;
      first[count++] = i;
    }
    return first.slice(0, count);
  }

  /** The samples whose rows are none of those of `samples`, in order. */
  samplesExcept(samples: Int32Array): Int32Array {
    const marked = this.stores.map((store) => new Uint8Array(store.truncated.length));
    for (const i of samples) marked[this.store[i]!]![this.row[i]!] = 1;
    return Int32Array.from({ length: this.length }, (_, i) => i).filter(
      (i) => marked[this.store[i]!]![this.row[i]!] === 0,
    );
  }
}

interface Places {
  store: Uint32Array;
  row: Uint32Array;
}

interface DatasetParts {
  skipped?: number;
  problems?: readonly string[];
  /** Which rows are samples; default: all, in order. */
  places?: Places;
}

function allPlaces(stores: readonly TokenStore[]): Places {
  const length = stores.reduce((sum, store) => sum + store.truncated.length, 0);
  const places = { store: new Uint32Array(length), row: new Uint32Array(length) };
  let at = 0;
  for (const [k, { truncated }] of stores.entries()) {
    for (let i = 0; i < truncated.length; i++, at++) {
      places.store[at] = k;
      places.row[at] = i;
    }
  }
  return places;
}

/**
 * Loads and tokenises a data set, or takes it from the cache. Throws RowError at the first bad row (unless
 * `skipBadRows`), FormatError for a file that is not what it says, NeftuneError where it is missing or has no usable
 * row. Rows are read and tokenised in blocks; past 1 GiB of tokens they are kept in the cache's file alone.
 */
export async function loadDataset(options: LoadOptions): Promise<Dataset> {
  const { path, rows, columns } = options;
  if ((path === undefined) === (rows === undefined)) {
    throw new NeftuneError("dataset", "a data set is loaded from either a path or rows");
  }
  const template = promptTemplate(options.template);
  const encoding: EncoderOptions = {
    template,
    maxLength: options.maxLength,
    parseSpecial: options.parseSpecial === true,
    vocabSize: options.vocabSize ?? null,
    ...(columns === undefined ? {} : { columns }),
  };
  const skipBadRows = options.skipBadRows === true;
  const samples = options.samples ?? null;
  const source =
    path === undefined
      ? sourceOfRows(ROWS, rows!)
      : openSource(path, { columns: Object.values(columns ?? {}) });
  const tokenizer = tokenizerFiles(options.tokenizerDir);
  const uses = tokenizer.concat(JSON.stringify(template)).join("\n");
  // such a template writes the date into every sample
  const date = uses.includes("strftime_now") ? (options.templateDate ?? today()) : undefined;
  const content =
    path === undefined
      ? sha256([JSON.stringify(rows)])
      : await fileSha256(path, () => expectGoingOn(options.signal));
  const fingerprint = sha256([
    `tokens ${ENCODING_VERSION}`,
    JSON.stringify({ encoding, skipBadRows, samples, date, format: source.format }),
    ...tokenizer,
    content,
  ]);

  const cacheDir =
    path === undefined ? null : options.cacheDir === undefined ? defaultCacheDir() : options.cacheDir;
  const cached = cacheDir === null ? null : readCache(cacheDir, fingerprint);
  const writer = cached === null && cacheDir !== null ? new CacheWriter(cacheDir, fingerprint) : null;
  try {
    const data =
      cached ??
      (await tokenizeSource(source, options, { ...encoding, date }, { skipBadRows, samples }, writer)) ??
      readCache(cacheDir!, fingerprint);
    if (data === null) throw new NeftuneError("io", `${cacheDir}: the tokens written there are damaged`);
    return new Dataset(data.stores, fingerprint, {
      skipped: data.skipped,
      problems: data.problems.map((problem) => `${source.path}${problem}`),
    });
  } finally {
    writer?.close();
  }
}

interface Reading {
  skipBadRows: boolean;
  samples: number | null;
}

/** Tokenises a source into `writer`'s file and memory; null where it is too much for memory and in the file alone. */
async function tokenizeSource(
  source: Source,
  options: LoadOptions,
  encoding: EncoderOptions,
  { skipBadRows, samples }: Reading,
  writer: CacheWriter | null,
): Promise<CachedData | null> {
  const workers = options.workers ?? workersFor(source.bytes);
  const mostMemory = options.mostMemory ?? MOST_MEMORY;
  let stores: TokenStore[] | null = [];
  const errors: RowError[] = [];
  let [rows, skipped, bytes] = [0, 0, 0];
  const take = (block: RowBlock, { store, bad }: TokenizedRows): void => {
    expectGoingOn(options.signal);
    rows += block.rows.length;
    options.onProgress?.(rows);
    skipped += bad.length;
    for (const { row, reason } of bad.slice(0, REPORTED_PROBLEMS - errors.length)) {
      const place = row - block.first;
      errors.push(new RowError(`${source.path}${placeOf(block, place)}`, block.broken.get(place) ?? reason));
    }
    if (!skipBadRows && errors[0] !== undefined) throw errors[0];
    writer?.append(store);
    bytes += 8 * store.ids.length;
    stores?.push(store);
    if (writer === null) return;
    if (bytes > mostMemory && writer.failure === null) stores = null;
    else if (stores === null) throw cannotKeep(source.path, writer.failure);
  };
  await tokenizeAll(firstRows(source, samples), options.tokenizerDir, encoding, workers, !skipBadRows, take);
  if (rows === 0) throw new NeftuneError("dataset", `dataset ${source.path}: has no rows`);
  if (skipped === rows) {
    const first = errors[0]?.message ?? "";
    throw new NeftuneError("dataset", `dataset ${source.path}: none of its rows can be used; ${first}`);
  }
  const problems = errors.map((error) => error.message.slice(source.path.length));
  writer?.commit(skipped, problems);
  if (stores === null && writer?.failure != null) throw cannotKeep(source.path, writer.failure);
  return stores === null ? null : { stores, skipped, problems };
}

function expectGoingOn(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw new InterruptedError("stopped while the data was read");
}

function cannotKeep(path: string, failure: unknown): NeftuneError {
  const reason = failure instanceof Error ? failure.message : String(failure);
  return new NeftuneError(
    "io",
    `dataset ${path}: its tokens are too many for memory, and the cache cannot be written: ${reason}; free space, or set XDG_CACHE_HOME to another folder`,
    { cause: failure },
  );
}

/** The blocks of the first `samples` rows, or of all. */
async function* firstRows(source: Source, samples: number | null): AsyncGenerator<RowBlock, void, void> {
  let left = samples ?? Number.POSITIVE_INFINITY;
  for await (const block of source.blocks()) {
    yield block.rows.length <= left ? block : { ...block, rows: block.rows.slice(0, left) };
    left -= block.rows.length;
    if (left <= 0) return;
  }
}

/**
 * Holds samples out for evaluation: a share of the rows (below 1) or a count. Both parts keep the file's order. Of a
 * row that a weight repeats none is trained on where it is held out, and it is evaluated once.
 */
export function splitHoldout(
  dataset: Dataset,
  amount: number,
  seed: number | bigint,
): { train: Dataset; held: Dataset } {
  const rows = dataset.distinct();
  const { length } = rows;
  const count = amount < 1 ? Math.round(amount * length) : amount;
  if (!(amount > 0) || !Number.isInteger(count) || count < 1 || count >= length) {
    throw new UsageError(
      `--eval-split ${amount}: expected a share between 0 and 1 or a count that leaves samples on both sides, of ${length}`,
    );
  }
  const order = holdoutOrder(length, seed);
  const held = order
    .slice(0, count)
    .sort()
    .map((i) => rows[i]!);
  const name = `${amount} ${seed}`;
  return {
    train: dataset.select(dataset.samplesExcept(held), `train ${name}`),
    held: dataset.select(held, `held ${name}`),
  };
}

/** What the tokens depend on beside the data: tokenizer.json and the files that speak with it. */
function tokenizerFiles(dir: string): string[] {
  return ["tokenizer.json", ...SETTINGS_FILES].map((name) => {
    const path = join(dir, name);
    return existsSync(path) ? `${name} ${readFileSync(path, "utf8")}` : `no ${name}`;
  });
}

/** Hashes parts with their lengths, so that no two lists of parts run together. */
function sha256(parts: readonly (string | Uint8Array)[]): string {
  const hasher = new Bun.CryptoHasher("sha256");
  for (const part of parts) {
    const bytes = typeof part === "string" ? Buffer.from(part) : part;
    hasher.update(`${bytes.length} `);
    hasher.update(bytes);
  }
  return hasher.digest("hex");
}
