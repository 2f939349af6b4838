// The thread that encoder-thread.ts starts and asks. build.ts has to name this file as an entry point of the executable.

import type { Encoder } from "./encode.ts";
import { answered, type EncoderRequest, openEncoder } from "./encoder-thread.ts";

declare const self: Worker;

let open: (() => Encoder) | undefined;
let encoder: Encoder | undefined;

self.onmessage = ({ data }: MessageEvent<EncoderRequest>) => {
  if (data.kind === "open") {
    const { tokenizerDir, options } = data;
    open = () => openEncoder(tokenizerDir, options);
  } else if (open !== undefined) {
    const opened = open;
    self.postMessage(
      answered(() => {
        encoder ??= opened();
        return encoder;
      }, data.question),
    );
  }
};
