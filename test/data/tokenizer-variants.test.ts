// Ids of byte-level tokenizers in the variants that checkpoints ship, as Hugging Face's tokenizers (Rust) gives them.

import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { NO_SETTINGS } from "./tiny-tokenizer.ts";

const SMOLLM2 = join(import.meta.dir, "../../../shared/data/smollm2-tokenizer/tokenizer.json");
const GOLDEN = join(import.meta.dir, "../golden/data/tokenize-variants.json");

interface Variant {
  name: string;
  pre_tokenizer: object;
  normalizer: object | null;
  cases: { text: string; ids: number[] }[];
}

describe.skipIf(!existsSync(SMOLLM2))("SmolLM2's vocabulary (skipped where ../shared/data is absent)", () => {
  const { variants } = JSON.parse(readFileSync(GOLDEN, "utf8")) as { variants: Variant[] };
  for (const { name, pre_tokenizer, normalizer, cases } of variants) {
    test(name, () => {
      const json = JSON.parse(readFileSync(SMOLLM2, "utf8")) as object;
      const tokenizer = new Tokenizer({ ...json, pre_tokenizer, normalizer }, NO_SETTINGS);
      expect(cases.length).toBe(29);
      for (const { text, ids } of cases) {
        const got = Array.from(tokenizer.encode(text, { parseSpecial: true }));
        expect({ text, ids: got }).toEqual({ text, ids });
      }
    });
  }
});
