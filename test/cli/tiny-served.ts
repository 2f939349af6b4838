// A model of a few thousand weights with a tokenizer and a chat template, loaded to answer.

import { cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ServedModel } from "../../src/cli/inputs/served-model.ts";
import type { ServerOptions } from "../../src/cli/serve/server.ts";
import type { Device } from "../../src/native/index.ts";
import { byteTokenizerJson, HEADER_TEMPLATE } from "../data/tiny-tokenizer.ts";
import { folder } from "../golden/support.ts";

export const tinyAdapter = join(folder, "adapters", "tiny-gqa-bf16-sharded-all7-r4-final");

/** Makes the model's folder. Its BOS is id 346. */
export function makeTinyModel(dir: string): string {
  cpSync(join(folder, "models", "tiny-gqa-bf16-sharded"), dir, { recursive: true });
  writeFileSync(join(dir, "tokenizer.json"), JSON.stringify(byteTokenizerJson()));
  const settings = {
    bos_token: "<|begin_of_text|>",
    eos_token: "<|end_of_text|>",
    chat_template: HEADER_TEMPLATE,
    tokenizer_class: "PreTrainedTokenizerFast",
  };
  writeFileSync(join(dir, "tokenizer_config.json"), JSON.stringify(settings));
  return dir;
}

/** Four sequences at once of up to 128 tokens. The caller closes the model. */
export function openTiny(device: Device, dir: string, adapter?: string): ServedModel {
  const values = {
    ...({ quantization: "none", "double-quantization": true, "quantized-cache": undefined } as const),
    ...({ dtype: "f32", "prompt-template": undefined, "context-length": 128, slots: 4 } as const),
    adapter,
  };
  return ServedModel.open(device, { path: dir }, values, { note: () => {} });
}

/** A server on a port that is free. */
export const tinyOptions: ServerOptions = {
  ...{ host: "127.0.0.1", port: 0, key: null, maxQueue: 512, timeoutSeconds: 60 },
  note: () => {},
};
