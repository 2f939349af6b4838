// A data set, tokenised: loaded from a file or from rows, cached by what it was made of, joined, split.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { NeftuneError, UsageError } from "../errors.ts";
import { type CachedData, defaultCacheDir, readCache, writeCache } from "./cache.ts";
import type { EncoderOptions } from "./encode.ts";
import { holdoutOrder } from "./philox.ts";
import { countTargets, type Sample } from "./sample.ts";
import { parseSource, RowError, readDataFile, type Source } from "./source.ts";
import { type TemplateDate, today } from "./template-date.ts";
import { promptTemplate } from "./templates.ts";
import { concatStores, type TokenStore } from "./token-store.ts";
import { tokenizeAll, workersFor } from "./tokenize-rows.ts";
import { SETTINGS_FILES } from "./tokenizer-settings.ts";

/** Raised whenever the same rows would become other tokens than before: it is part of every fingerprint. */
const ENCODING_VERSION = 2;
const REPORTED_PROBLEMS = 10;
/** What errors call rows that come from no file. */
const ROWS = "rows";

export interface LoadOptions {
  /** A file, or `rows` as they would be parsed from one. */
  path?: string | undefined;
  rows?: unknown[] | undefined;
  /** Folder of tokenizer.json: a model's. */
  tokenizerDir: string;
  /** `--prompt-template`: alpaca, chat, vicuna or a Jinja file; absent, by each row's format. */
  template?: string | undefined;
  /** Tokens that longer samples are cut to; null for none. */
  maxLength: number | null;
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
  private readonly store: TokenStore;

  constructor(store: TokenStore, fingerprint: string, skipped = 0, problems: readonly string[] = []) {
    this.store = store;
    this.length = store.truncated.length;
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
    const { starts, ids, labels, truncated } = this.store;
    const begin = starts[i]!;
    const end = starts[i + 1]!;
    return {
      ids: ids.subarray(begin, end),
      labels: labels.subarray(begin, end),
      truncated: truncated[i] === 1,
    };
  }

  /** A data set of some samples, in the order given; `name` makes its fingerprint another. */
  select(indices: ArrayLike<number>, name: string): Dataset {
    const { starts, ids, labels, truncated } = this.store;
    const parts = Array.from(indices, (i): TokenStore => {
      const begin = starts[i]!;
      const end = starts[i + 1]!;
      return {
        starts: Uint32Array.of(0, end - begin),
        ids: ids.subarray(begin, end),
        labels: labels.subarray(begin, end),
        truncated: truncated.subarray(i, i + 1),
      };
    });
    return new Dataset(concatStores(parts), sha256([this.fingerprint, name]));
  }

  /** Data sets one behind the other. */
  static concat(datasets: readonly Dataset[]): Dataset {
    if (datasets.length === 1) return datasets[0]!;
    return new Dataset(
      concatStores(datasets.map((dataset) => dataset.store)),
      sha256(datasets.map((dataset) => dataset.fingerprint)),
      datasets.reduce((sum, dataset) => sum + dataset.stats.skipped, 0),
      datasets.flatMap((dataset) => dataset.problems).slice(0, REPORTED_PROBLEMS),
    );
  }
}

/**
 * Loads and tokenises a data set, or takes it from the cache. Throws RowError at the first bad row (unless
 * `skipBadRows`), FormatError for a file that is no JSON, NeftuneError where it is missing or has no usable row.
 */
export async function loadDataset(options: LoadOptions): Promise<Dataset> {
  const template = promptTemplate(options.template);
  const encoding: EncoderOptions = {
    template,
    maxLength: options.maxLength,
    parseSpecial: options.parseSpecial === true,
    vocabSize: options.vocabSize ?? null,
  };
  const skipBadRows = options.skipBadRows === true;
  const { path, rows } = options;
  const file = path === undefined ? null : readDataFile(path);
  if ((file === null) === (rows === undefined)) {
    throw new NeftuneError("dataset", "a data set is loaded from either a path or rows");
  }
  const content = file ?? Buffer.from(JSON.stringify(rows));
  const tokenizer = tokenizerFiles(options.tokenizerDir);
  const uses = tokenizer.concat(JSON.stringify(template)).join("\n");
  // such a template writes the date into every sample
  const date = uses.includes("strftime_now") ? (options.templateDate ?? today()) : undefined;
  const kind = path !== undefined && /\.(jsonl|ndjson)$/i.test(path) ? "lines" : "json";
  const fingerprint = sha256([
    `tokens ${ENCODING_VERSION}`,
    JSON.stringify({ encoding, skipBadRows, date, kind }),
    ...tokenizer,
    content,
  ]);

  const cacheDir =
    file === null ? null : options.cacheDir === undefined ? defaultCacheDir() : options.cacheDir;
  const cached = cacheDir === null ? null : readCache(cacheDir, fingerprint);
  const located = ({ store, skipped, problems }: CachedData): Dataset =>
    new Dataset(
      store,
      fingerprint,
      skipped,
      problems.map((problem) => `${path ?? ROWS}${problem}`),
    );
  if (cached !== null) return located(cached);

  const source = file === null ? sourceOf(rows!) : parseSource(path!, file);
  const data = await tokenizeSource(source, options, { ...encoding, date }, skipBadRows);
  if (cacheDir !== null) writeCache(cacheDir, fingerprint, data);
  return located(data);
}

async function tokenizeSource(
  source: Source,
  options: LoadOptions,
  encoding: EncoderOptions,
  skipBadRows: boolean,
): Promise<CachedData> {
  if (source.rows.length === 0) throw new NeftuneError("dataset", `dataset ${source.path}: has no rows`);
  const workers = options.workers ?? workersFor(source.bytes);
  const { store, bad } = await tokenizeAll(source.rows, options.tokenizerDir, encoding, workers);
  const reported = skipBadRows ? bad.slice(0, REPORTED_PROBLEMS) : bad.slice(0, 1);
  const errors = reported.map(
    ({ row, reason }) => new RowError(source.where(row), source.broken.get(row) ?? reason),
  );
  if (!skipBadRows && errors[0] !== undefined) throw errors[0];
  if (bad.length === source.rows.length) {
    const first = errors[0]?.message ?? "";
    throw new NeftuneError("dataset", `dataset ${source.path}: none of its rows can be used; ${first}`);
  }
  const problems = errors.map((error) => error.message.slice(source.path.length));
  return { store, skipped: bad.length, problems };
}

/** Holds samples out for evaluation: a share below 1 or a count. Both parts keep the file's order. */
export function splitHoldout(
  dataset: Dataset,
  amount: number,
  seed: number | bigint,
): { train: Dataset; held: Dataset } {
  const { length } = dataset;
  const count = amount < 1 ? Math.round(amount * length) : amount;
  if (!(amount > 0) || !Number.isInteger(count) || count < 1 || count >= length) {
    throw new UsageError(
      `--eval-split ${amount}: expected a share between 0 and 1 or a count that leaves samples on both sides, of ${length}`,
    );
  }
  const order = holdoutOrder(length, seed);
  const name = `${amount} ${seed}`;
  return {
    train: dataset.select(order.slice(count).sort(), `train ${name}`),
    held: dataset.select(order.slice(0, count).sort(), `held ${name}`),
  };
}

function sourceOf(rows: unknown[]): Source {
  const bytes = Buffer.byteLength(JSON.stringify(rows));
  return { path: ROWS, bytes, rows, broken: new Map(), where: (row) => `${ROWS}: row ${row + 1}` };
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
