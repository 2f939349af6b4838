// Parquet from a thread that is watched. A file's bytes can make its decoder run for ever or take all memory: a few of
// them may say that a value is repeated a billion times. The thread can be ended; and Ctrl-C is heard meanwhile.

import { freemem } from "node:os";
import { FormatError, NeftuneError } from "../../errors.ts";
import { workerUrl } from "../worker-url.ts";
import type { RowBlock } from "./blocks.ts";

export type ParquetRequest = { path: string; wanted: string[] };

export type ParquetReply =
  | { kind: "block"; block: RowBlock }
  | { kind: "end" }
  | { kind: "failed"; code: string; message: string };

/** What reading one row group may take. */
export interface ParquetLimits {
  seconds: number;
  /** By which the process may grow. */
  bytes: number;
}

const WATCH_MILLISECONDS = 100;

/** Far more than decoding takes: packed text is some 10 times as large once unpacked, and as objects a few times that. */
export function parquetLimits(fileBytes: number): ParquetLimits {
  return {
    seconds: 10 + fileBytes / 2 ** 20,
    bytes: Math.min(2 ** 30 + 100 * fileBytes, 0.8 * freemem()),
  };
}

/**
 * The rows of a Parquet file, nested lists and structs as arrays and objects. Reads the columns in `wanted`, or
 * all columns if the file has none of those. Throws FormatError where the file is damaged or goes past `limits`.
 */
export async function* parquetBlocks(
  path: string,
  wanted: readonly string[],
  limits: ParquetLimits,
): AsyncGenerator<RowBlock, void, void> {
  const thread = new Worker(workerUrl("data/source/parquet-worker"));
  try {
    for (;;) {
      const reply = await asked(thread, { path, wanted: [...wanted] }, limits);
      if (reply.kind === "end") return;
      if (reply.kind === "failed") throw new NeftuneError(reply.code, reply.message);
      yield reply.block;
    }
  } finally {
    thread.terminate();
  }
}

/** The thread's answer. Throws where it takes more than the limits. */
function asked(thread: Worker, request: ParquetRequest, limits: ParquetLimits): Promise<ParquetReply> {
  return new Promise((resolve, reject) => {
    const began = performance.now();
    const size = process.memoryUsage.rss();
    const excess = (what: string) =>
      new FormatError(
        request.path,
        `is damaged, or its row groups are too large: one took more than ${what}; write the file again with smaller row groups`,
      );
    const watch = setInterval(() => {
      if (performance.now() - began > 1000 * limits.seconds) fail(excess(`${Math.round(limits.seconds)} s`));
      const grown = process.memoryUsage.rss() - size;
      if (grown > limits.bytes) fail(excess(`${(limits.bytes / 2 ** 30).toFixed(1)} GiB of memory`));
    }, WATCH_MILLISECONDS);
    const fail = (error: NeftuneError): void => {
      clearInterval(watch);
      reject(error);
    };
    thread.onerror = ({ message }) => {
      fail(new NeftuneError("internal", `${request.path}: the thread that reads Parquet failed: ${message}`));
    };
    thread.onmessage = ({ data }: MessageEvent<ParquetReply>) => {
      clearInterval(watch);
      resolve(data);
    };
    thread.postMessage(request);
  });
}
