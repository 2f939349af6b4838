// A data set from a file or from rows: read and tokenized as it comes, cached by what it was made of.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { about, NeftuneError } from "../errors.ts";
import { type CachedData, CacheWriter, defaultCacheDir, MEMORY_BYTES, readCache } from "./cache.ts";
import type { ColumnNames } from "./columns.ts";
import { Dataset, REPORTED_PROBLEMS } from "./dataset.ts";
import type { EncoderOptions } from "./encode.ts";
import { addNotes, noNotes, noteUnused } from "./encoding-notes.ts";
import type { LossOn } from "./script.ts";
import { sha256 } from "./sha256.ts";
import {
  expectGoingOn,
  fileSha256,
  fileVersion,
  openSource,
  placeOf,
  type RowBlock,
  RowError,
  type Source,
  sourceOfRows,
} from "./source.ts";
import { type TemplateDate, today } from "./template-date.ts";
import { promptTemplate } from "./templates.ts";
import { MemoryStore, type TokenBlock, type TokenStore } from "./token-store.ts";
import { type TokenizedRows, tokenizeAll, workersFor } from "./tokenize-rows.ts";
import { SETTINGS_FILES } from "./tokenizer-settings.ts";

/** Raised whenever the same rows would become other tokens than before: it is part of every fingerprint. */
const ENCODING_VERSION = 7;
/** Bytes of tokens that are held in memory where the cache cannot be written. */
const MOST_MEMORY = 2 ** 30;
/** What errors call rows that come from no file. */
const ROWS = "rows";

export interface LoadOptions {
  /** A file, or `rows` as they would be parsed from one. */
  path?: string | undefined;
  rows?: unknown[] | undefined;
  /** Folder of tokenizer.json: a model's. */
  tokenizerDir: string;
  /** `--prompt-template`: a name or a Jinja file; absent, by each row's format. */
  template?: string | undefined;
  /** `--loss-on`: which tokens are targets. Default: those of answers. */
  lossOn?: LossOn | undefined;
  /** Tokens that longer samples are cut to; null for none. */
  maxLength: number | null;
  /** Other names of fields in the data, by the names that formats know. */
  columns?: ColumnNames | undefined;
  /** Read only the first `samples` rows; null or absent: all. */
  samples?: number | null | undefined;
  /** Leaves bad rows out and counts them; otherwise the first one is thrown as a RowError. */
  skipBadRows?: boolean | undefined;
  /** Text in data that looks like a special token is that token. */
  parseSpecial?: boolean | undefined;
  /** Ids in rows of tokens lie below it. Default: the tokenizer's; a model may have more. */
  vocabSize?: number | undefined;
  /** The day that a template's strftime_now gives. Default: `defaultDate`. */
  templateDate?: TemplateDate | undefined;
  /** That day where nothing fixed one, which notes on rows say. Default: today. */
  defaultDate?: TemplateDate | undefined;
  /** Threads; 0 is none beside this one. Default: by size. */
  workers?: number | undefined;
  /** Bytes of tokens held in memory; more are read from the cache's file as they are needed. Default: 16 MiB. */
  mostMemory?: number | undefined;
  /** Ends the loading with an InterruptedError. */
  signal?: AbortSignal | undefined;
  /** Rows tokenized so far. */
  onProgress?: ((rows: number) => void) | undefined;
  /** Default: `$XDG_CACHE_HOME/neftune`, else `~/.cache/neftune`. Null keeps nothing. */
  cacheDir?: string | null | undefined;
}

/**
 * Loads and tokenizes a data set, or takes it from the cache. Throws RowError at the first bad row (unless
 * `skipBadRows`), FormatError for a file that is not what it says, NeftuneError where it is missing or has no usable
 * row. Rows are read and tokenized in blocks; past 16 MiB of tokens they are kept in the cache's file alone.
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
    lossOn: options.lossOn ?? "answers",
    ...(columns === undefined ? {} : { columns }),
  };
  const skipBadRows = options.skipBadRows === true;
  const samples = options.samples ?? null;
  const source =
    path === undefined
      ? sourceOfRows(ROWS, rows!)
      : openSource(path, { columns: Object.values(columns ?? {}), signal: options.signal });
  const tokenizer = tokenizerFiles(options.tokenizerDir);
  const uses = tokenizer.concat(JSON.stringify(template)).join("\n");
  // such a template writes the date into every sample
  const { templateDate, defaultDate = today() } = options;
  const date = uses.includes("strftime_now") ? (templateDate ?? defaultDate) : undefined;
  const before = path === undefined ? "" : fileVersion(path);
  const content =
    path === undefined ? sha256([JSON.stringify(rows)]) : await fileSha256(path, options.signal);
  const fingerprint = sha256([
    `tokens ${ENCODING_VERSION}`,
    JSON.stringify({ encoding, skipBadRows, samples, date, format: source.format }),
    ...tokenizer,
    content,
  ]);

  const cacheDir =
    path === undefined ? null : options.cacheDir === undefined ? defaultCacheDir() : options.cacheDir;
  const mostMemory = options.mostMemory ?? MEMORY_BYTES;
  const cached = cacheDir === null ? null : readCache(cacheDir, fingerprint, mostMemory);
  const writer = cached === null && cacheDir !== null ? new CacheWriter(cacheDir, fingerprint) : null;
  const reading = { skipBadRows, samples, before, mostMemory };
  try {
    const data = cached ?? (await tokenizeSource(source, options, { ...encoding, date }, reading, writer));
    return new Dataset(data.stores, fingerprint, {
      skipped: data.skipped,
      problems: data.problems.map((problem) => `${source.path}${problem}`),
      notes: [{ path: source.path, date: templateDate === undefined ? date : undefined, ...data.notes }],
      content: data.content,
    });
  } finally {
    writer?.close();
  }
}

interface Reading {
  skipBadRows: boolean;
  samples: number | null;
  /** The file's version when its fingerprint was taken. */
  before: string;
  mostMemory: number;
}

/** Tokenizes a source into `writer`'s file, and into memory where that is enough. */
async function tokenizeSource(
  source: Source,
  options: LoadOptions,
  encoding: EncoderOptions,
  { skipBadRows, samples, before, mostMemory }: Reading,
  writer: CacheWriter | null,
): Promise<Tokenized> {
  // While a thread renders and tokenizes, this one hears the signal.
  const least = options.signal === undefined ? 0 : 1;
  const workers = options.workers ?? Math.max(least, workersFor(source.bytes));
  const kept = new KeptTokens(source.path, writer, mostMemory);
  const problems: { place: string; reason: string }[] = [];
  const notes = noNotes<string>();
  let [rows, skipped] = [0, 0];
  const take = (block: RowBlock, { tokens, bad, notes: ofBlock }: TokenizedRows): void => {
    expectGoingOn(options.signal);
    rows += block.rows.length;
    options.onProgress?.(rows);
    skipped += bad.length;
    for (const { row, reason } of bad.slice(0, REPORTED_PROBLEMS - problems.length)) {
      const i = row - block.first;
      problems.push({ place: placeOf(block, i), reason: block.broken.get(i) ?? reason });
    }
    const firstBad = problems[0];
    if (!skipBadRows && firstBad !== undefined) {
      const remedy = "(--skip-bad-rows leaves such rows out)";
      throw new RowError(`${source.path}${firstBad.place}`, `${firstBad.reason} ${remedy}`);
    }
    addNotes(notes, ofBlock, (row) => placeOf(block, row - block.first));
    noteUnused(notes, block.unread ?? []);
    kept.add(tokens);
  };
  const blocks = firstRows(source, samples);
  const { tokenizerDir, signal } = options;
  await tokenizeAll(blocks, tokenizerDir, encoding, workers, !skipBadRows, take, signal);
  if (rows === 0) throw new NeftuneError("dataset", `dataset ${source.path} has no rows`);
  if (skipped === rows) {
    const first = problems.map(({ place, reason }) => about(`${source.path}${place}`, reason))[0] ?? "";
    throw new NeftuneError("dataset", `dataset ${source.path}: none of its rows can be used; ${first}`);
  }
  if (options.path !== undefined && fileVersion(options.path) !== before) {
    throw new NeftuneError("dataset", `dataset ${options.path} was changed while it was read; try again`);
  }
  const told = problems.map(({ place, reason }) => about(place, reason));
  const record = { skipped, problems: told, notes };
  const content = writer?.commit(record) ?? null;
  return { ...record, content, stores: kept.stores() };
}

type Tokenized = Omit<CachedData, "content"> & { content: string | null };

/** Tokens as they come: in the cache's file, and in memory as long as they are few or the file cannot be written. */
class KeptTokens {
  readonly #path: string;
  readonly #writer: CacheWriter | null;
  readonly #mostMemory: number;
  #inMemory: MemoryStore[] = [];
  #bytes = 0;
  /** Blocks before those in memory: they are read from the file. */
  #filed = 0;

  constructor(path: string, writer: CacheWriter | null, mostMemory: number) {
    this.#path = path;
    this.#writer = writer;
    this.#mostMemory = mostMemory;
  }

  add(tokens: TokenBlock): void {
    this.#writer?.append(tokens);
    this.#inMemory.push(new MemoryStore(tokens));
    this.#bytes += tokens.words.byteLength;
    if (this.#writer === null || this.#bytes <= this.#mostMemory) return;
    if (this.#writer.failure === null) {
      this.#filed += this.#inMemory.length;
      this.#inMemory = [];
      this.#bytes = 0;
      // the collector sees arrays that other threads made too late
      Bun.gc(true);
    } else if (this.#bytes > MOST_MEMORY) throw cannotKeep(this.#path, this.#writer.failure);
  }

  /** All of them in order; the writer's file is then the stores'. */
  stores(): TokenStore[] {
    if (this.#filed === 0) return this.#inMemory;
    const writer = this.#writer!;
    if (writer.failure === null) return [writer.store()];
    return [writer.store(this.#filed), ...this.#inMemory];
  }
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

/** What the tokens depend on beside the data: tokenizer.json and the files that speak with it. */
function tokenizerFiles(dir: string): string[] {
  return ["tokenizer.json", ...SETTINGS_FILES].map((name) => {
    const path = join(dir, name);
    return existsSync(path) ? `${name} ${readFileSync(path, "utf8")}` : `no ${name}`;
  });
}
