// Rows to a token store, here or in worker threads. The result is the same either way: rows are cut into runs, and the
// runs put back in order.

import { availableParallelism } from "node:os";
import { NeftuneError } from "../errors.ts";
import { Encoder, type EncoderOptions } from "./encode.ts";
import { RowProblem } from "./formats.ts";
import { concatStores, type TokenStore, TokenStoreBuilder } from "./token-store.ts";
import { Tokenizer } from "./tokenizer.ts";

/** A row that could not be used, by its place, and why. */
export interface BadRow {
  row: number;
  reason: string;
}

export interface TokenizedRows {
  store: TokenStore;
  bad: BadRow[];
}

/** What a worker is sent: first the tokenizer and options, then runs of rows. */
export type WorkerRequest =
  | { kind: "open"; tokenizerDir: string; options: EncoderOptions }
  | { kind: "run"; first: number; rows: unknown[] };

export type WorkerReply =
  | ({ kind: "done"; first: number } & TokenizedRows)
  | { kind: "failed"; code: string; message: string };

/** Below this size a worker's start costs more than it saves. */
const BYTES_A_WORKER = 1 << 20;
const MOST_WORKERS = 8;
const RUNS_A_WORKER = 4;

/** How many workers a file of this size is worth; 0 is to stay in this thread. */
export function workersFor(bytes: number): number {
  const workers = Math.min(Math.floor(bytes / BYTES_A_WORKER), availableParallelism(), MOST_WORKERS);
  return workers < 2 ? 0 : workers;
}

/** Encodes rows in this thread. A bad row is left out and noted; `first` is the number of the first. */
export function tokenizeRows(encoder: Encoder, rows: readonly unknown[], first: number): TokenizedRows {
  const builder = new TokenStoreBuilder();
  const bad: BadRow[] = [];
  rows.forEach((row, i) => {
    try {
      builder.add(encoder.encode(row));
    } catch (error) {
      if (!(error instanceof RowProblem)) throw error;
      bad.push({ row: first + i, reason: error.message });
    }
  });
  return { store: builder.finish(), bad };
}

/** Encodes rows with `workers` threads, or in this one for 0 and wherever threads cannot be started. */
export async function tokenizeAll(
  rows: readonly unknown[],
  tokenizerDir: string,
  options: EncoderOptions,
  workers: number,
): Promise<TokenizedRows> {
  if (workers > 0) {
    const threaded = await tokenizeThreaded(rows, tokenizerDir, options, workers);
    if (threaded !== null) return threaded;
  }
  return tokenizeRows(new Encoder(Tokenizer.load(tokenizerDir), options), rows, 0);
}

/** Null where a worker's script does not load. */
async function tokenizeThreaded(
  rows: readonly unknown[],
  tokenizerDir: string,
  options: EncoderOptions,
  workers: number,
): Promise<TokenizedRows | null> {
  const run = Math.max(1, Math.ceil(rows.length / (workers * RUNS_A_WORKER)));
  const done = new Map<number, TokenizedRows>();
  let next = 0;
  const threads: Worker[] = [];
  const work = (): Promise<boolean> =>
    new Promise((resolve, reject) => {
      const thread = new Worker(workerUrl());
      threads.push(thread);
      const send = (request: WorkerRequest): void => thread.postMessage(request);
      const sendRun = (): void => {
        if (next >= rows.length) {
          resolve(true);
          return;
        }
        send({ kind: "run", first: next, rows: rows.slice(next, next + run) });
        next += run;
      };
      thread.onerror = () => resolve(false);
      thread.onmessage = ({ data }: MessageEvent<WorkerReply>) => {
        if (data.kind === "failed") return reject(new NeftuneError(data.code, data.message));
        done.set(data.first, { store: data.store, bad: data.bad });
        sendRun();
      };
      send({ kind: "open", tokenizerDir, options });
      sendRun();
    });
  try {
    const finished = await Promise.all(Array.from({ length: workers }, work));
    if (finished.includes(false)) return null;
  } finally {
    for (const thread of threads) thread.terminate();
  }
  const runs = [...done.keys()].sort((a, b) => a - b).map((first) => done.get(first)!);
  return { store: concatStores(runs.map((one) => one.store)), bad: runs.flatMap((one) => one.bad) };
}

/**
 * The worker's script: beside this file, or inside the executable, where every module lies in one bundle and the
 * script is an entry point of its own, named from src/.
 */
function workerUrl(): URL {
  const compiled = import.meta.url.includes("/$bunfs/");
  return new URL(compiled ? "./data/tokenize-worker.js" : "./tokenize-worker.ts", import.meta.url);
}
