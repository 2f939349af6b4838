// Blocks of rows to tokens, here or in worker threads. The result is the same either way: blocks come back in
// order.

import { availableParallelism } from "node:os";
import { InterruptedError, NeftuneError } from "../errors.ts";
import { Encoder, type EncoderOptions } from "./encode.ts";
import { type EncodingNotes, noNotes, noteRow } from "./encoding-notes.ts";
import { RowProblem } from "./formats.ts";
import type { RowBlock } from "./source.ts";
import { type TokenBlock, TokenBlockBuilder } from "./token-store.ts";
import { Tokenizer } from "./tokenizer.ts";
import { workerUrl } from "./worker-url.ts";

/** A row that could not be used, by its place, and why. */
export interface BadRow {
  row: number;
  reason: string;
}

export interface TokenizedRows {
  tokens: TokenBlock;
  bad: BadRow[];
  /** Rows are named by their number, as bad ones are. */
  notes: EncodingNotes<number>;
}

/** What a worker is sent: first the tokenizer and options, then blocks of rows. */
export type WorkerRequest =
  | { kind: "open"; tokenizerDir: string; options: EncoderOptions }
  | { kind: "run"; first: number; rows: unknown[] };

export type WorkerReply =
  | ({ kind: "done"; first: number } & TokenizedRows)
  | { kind: "failed"; code: string; message: string };

/** Below this size a worker's start costs more than it saves. */
const BYTES_A_WORKER = 1 << 20;
const MOST_WORKERS = 8;
const BLOCKS_A_WORKER = 2;

/** How many workers a file of this size is worth; 0 is to stay in this thread. */
export function workersFor(bytes: number): number {
  const workers = Math.min(Math.floor(bytes / BYTES_A_WORKER), availableParallelism(), MOST_WORKERS);
  return workers < 2 ? 0 : workers;
}

/** Encodes rows in this thread into a block of `builder`. A bad row is left out and noted; `first` is the number of the first. */
export function tokenizeRows(
  encoder: Encoder,
  builder: TokenBlockBuilder,
  rows: readonly unknown[],
  first: number,
): TokenizedRows {
  const bad: BadRow[] = [];
  const notes = noNotes<number>();
  rows.forEach((row, i) => {
    try {
      const sample = encoder.encode(row);
      builder.add(sample);
      noteRow(notes, first + i, sample.notes);
    } catch (error) {
      if (!(error instanceof RowProblem)) throw error;
      bad.push({ row: first + i, reason: error.message });
    }
  });
  return { tokens: builder.finish(), bad, notes };
}

/** A block's samples, as they come back. */
export type BlockSink = (block: RowBlock, tokenized: TokenizedRows) => void;

/**
 * Encodes the blocks of a source with `workers` threads, or in this one for 0 and wherever threads cannot be started.
 * Few blocks are held at a time. `sink` gets them in order; with `stopAtBad` none comes after one with a bad row. Throws
 * InterruptedError once `signal` aborts, at once where threads encode.
 */
export async function tokenizeAll(
  blocks: AsyncGenerator<RowBlock, void, void>,
  tokenizerDir: string,
  options: EncoderOptions,
  workers: number,
  stopAtBad: boolean,
  sink: BlockSink,
  signal?: AbortSignal,
): Promise<void> {
  const pool = workers > 0 ? new Pool(workers, tokenizerDir, options) : null;
  let encoder: Encoder | undefined;
  const builder = new TokenBlockBuilder();
  const encode = async (block: RowBlock): Promise<TokenizedRows> => {
    const threaded = await pool?.encode(block);
    if (threaded != null) return threaded;
    encoder ??= new Encoder(() => Tokenizer.load(tokenizerDir), options);
    return tokenizeRows(encoder, builder, block.rows, block.first);
  };
  const waiting: { block: RowBlock; tokenized: Promise<TokenizedRows> }[] = [];
  /** Takes the oldest block; true where the work ends with it. */
  const takeOne = async (): Promise<boolean> => {
    const { block, tokenized } = waiting.shift()!;
    const result = await unlessInterrupted(tokenized, signal);
    sink(block, result);
    return stopAtBad && result.bad.length > 0;
  };
  try {
    let stopped = false;
    for await (const block of blocks) {
      const tokenized = encode(block);
      // Whoever waits for it hears of a failure; until then it is nobody's.
      tokenized.catch(() => {});
      waiting.push({ block, tokenized });
      if (waiting.length > BLOCKS_A_WORKER * workers) stopped = await takeOne();
      if (stopped) break;
    }
    while (!stopped && waiting.length > 0) stopped = await takeOne();
  } finally {
    pool?.close();
  }
}

/**
 * What a thread makes of a block, or a rejection as soon as the signal aborts: one that is busy with a row is not
 * waited for. No race against one promise for all blocks, which would hold the tokens of every one.
 */
function unlessInterrupted<T>(tokenized: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(new InterruptedError("stopped while the data was read"));
    if (signal?.aborted === true) return stop();
    signal?.addEventListener("abort", stop, { once: true });
    const done = () => signal?.removeEventListener("abort", stop);
    tokenized.then(resolve, reject).finally(done);
  });
}

/** Threads that encode blocks, each several behind one another. */
class Pool {
  readonly #threads: Worker[];
  readonly #asked = new Map<
    number,
    { resolve: (rows: TokenizedRows | null) => void; reject: (error: unknown) => void }
  >();
  #next = 0;
  #broken = false;
  #failure: NeftuneError | null = null;

  constructor(workers: number, tokenizerDir: string, options: EncoderOptions) {
    this.#threads = Array.from({ length: workers }, () => {
      const thread = new Worker(workerUrl("data/tokenize-worker"));
      thread.onerror = () => this.#giveUp();
      thread.onmessage = ({ data }: MessageEvent<WorkerReply>) => {
        if (data.kind === "failed") {
          this.#failure = new NeftuneError(data.code, data.message);
          for (const { reject } of this.#asked.values()) reject(this.#failure);
          this.#asked.clear();
          return;
        }
        this.#asked.get(data.first)?.resolve({ tokens: data.tokens, bad: data.bad, notes: data.notes });
        this.#asked.delete(data.first);
      };
      thread.postMessage({ kind: "open", tokenizerDir, options } satisfies WorkerRequest);
      return thread;
    });
  }

  /** The block's samples, or null where a thread's script did not load. */
  encode({ first, rows }: RowBlock): Promise<TokenizedRows | null> {
    if (this.#broken) return Promise.resolve(null);
    if (this.#failure !== null) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#asked.set(first, { resolve, reject });
      const thread = this.#threads[this.#next++ % this.#threads.length]!;
      thread.postMessage({ kind: "run", first, rows } satisfies WorkerRequest);
    });
  }

  close(): void {
    for (const thread of this.#threads) thread.terminate();
  }

  #giveUp(): void {
    this.#broken = true;
    for (const { resolve } of this.#asked.values()) resolve(null);
    this.#asked.clear();
  }
}
