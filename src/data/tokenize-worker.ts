// A thread that encodes runs of rows: tokenize-rows.ts starts it and says what it is sent. build.ts has to name this
// file as an entry point of the executable.

import { NeftuneError } from "../errors.ts";
import { Encoder } from "./encode.ts";
import { TokenBlockBuilder } from "./token-store.ts";
import { tokenizeRows, type WorkerReply, type WorkerRequest } from "./tokenize-rows.ts";
import { Tokenizer } from "./tokenizer.ts";

declare const self: Worker;

let encoder: Encoder | undefined;
const builder = new TokenBlockBuilder();

self.onmessage = ({ data }: MessageEvent<WorkerRequest>) => {
  try {
    if (data.kind === "open") {
      const { tokenizerDir, options } = data;
      encoder = new Encoder(() => Tokenizer.load(tokenizerDir), options);
    } else if (encoder !== undefined) {
      const tokenized = tokenizeRows(encoder, builder, data.rows, data.first);
      const { index, words } = tokenized.tokens;
      const reply: WorkerReply = { kind: "done", first: data.first, ...tokenized };
      self.postMessage(
        reply,
        [...Object.values(index), words].map((part) => part.buffer as ArrayBuffer),
      );
    }
  } catch (error) {
    const code = error instanceof NeftuneError ? error.code : "internal";
    const message = error instanceof Error ? error.message : String(error);
    self.postMessage({ kind: "failed", code, message } satisfies WorkerReply);
  }
};
