// Encoders as tests want them: rows whole, as their own format says.

import { Encoder, type EncoderOptions } from "../../src/data/encode.ts";
import type { Tokenizer } from "../../src/data/tokenizer.ts";

export const plainEncoding: EncoderOptions = {
  template: { kind: "auto" },
  maxLength: null,
  parseSpecial: false,
  vocabSize: null,
};

export function encoder(tokenizer: Tokenizer, options: Partial<EncoderOptions> = {}): Encoder {
  return new Encoder(tokenizer, { ...plainEncoding, ...options });
}

/** A Jinja template given as source. */
export function jinja(source: string): EncoderOptions["template"] {
  return { kind: "file", path: "test.jinja", source };
}
