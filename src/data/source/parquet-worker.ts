// The thread that reads a Parquet file: parquet-thread.ts starts it, and asks for one block after the other. build.ts
// has to name this file as an entry point of the executable.

import { NeftuneError } from "../../errors.ts";
import type { RowBlock } from "./blocks.ts";
import { readParquet } from "./parquet.ts";
import type { ParquetReply, ParquetRequest } from "./parquet-thread.ts";

declare const self: Worker;

let blocks: AsyncGenerator<RowBlock, void, void> | undefined;

self.onmessage = async ({ data }: MessageEvent<ParquetRequest>) => {
  const reply = (message: ParquetReply): void => self.postMessage(message);
  try {
    blocks ??= readParquet(data.path, new Set(data.wanted));
    const { done, value } = await blocks.next();
    reply(done === true ? { kind: "end" } : { kind: "block", block: value });
  } catch (error) {
    const code = error instanceof NeftuneError ? error.code : "internal";
    reply({ kind: "failed", code, message: error instanceof Error ? error.message : String(error) });
  }
};
