// Normalizers, pre-tokenizers, decoders and added tokens: ids, places and texts of Hugging Face's tokenizers (Rust).

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { byteTokenizerJson, llamaTokenizerJson, NO_SETTINGS } from "./tiny-tokenizer.ts";

interface Variant {
  name: string;
  base: "llama" | "bytes";
  model: object;
  change: object;
  cases: { text: string; ids: number[]; spans: [number, number][]; decoded: string; plain?: number[] }[];
}

const variants = JSON.parse(
  readFileSync(join(import.meta.dir, "../golden/data/tokenizer-parts.json"), "utf8"),
) as Variant[];

function tokenizerOf({ base, model, change }: Pick<Variant, "base" | "model" | "change">): Tokenizer {
  const json = base === "llama" ? llamaTokenizerJson() : byteTokenizerJson();
  return new Tokenizer({ ...json, ...change, model: { ...(json.model as object), ...model } }, NO_SETTINGS);
}

for (const variant of variants) {
  test(`${variant.base}: ${variant.name}`, () => {
    const tokenizer = tokenizerOf(variant);
    expect(variant.cases.length).toBe(16);
    for (const { text, ids, spans, decoded, plain } of variant.cases) {
      const encoding = tokenizer.encodeText(text, true);
      expect({
        text,
        ids: Array.from(encoding.ids),
        spans: Array.from(encoding.starts, (start, i) => [start, encoding.ends[i]!]),
        decoded: tokenizer.decode(ids),
        plain: Array.from(tokenizer.encode(text)),
      }).toEqual({ text, ids, spans, decoded, plain: plain ?? ids });
    }
  });
}

describe("a part that is not supported is refused by name", () => {
  const cases: [object, RegExp][] = [
    [
      { normalizer: { type: "Precompiled", precompiled_charsmap: "" } },
      /normalizer Precompiled is not supported/,
    ],
    [{ normalizer: { type: "Sequence", normalizers: [{ type: "Nmt" }] } }, /normalizer Nmt is not supported/],
    [{ normalizer: { type: "Replace", content: "" } }, /Replace: pattern has neither String nor Regex/],
    [{ pre_tokenizer: { type: "UnicodeScripts" } }, /pre-tokenizer UnicodeScripts is not supported/],
    [{ pre_tokenizer: {} }, /a pre-tokenizer has no type/],
    [
      { pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "last" } },
      /prepend_scheme "last"/,
    ],
    [
      { pre_tokenizer: { type: "Split", pattern: { Regex: "\\d" }, behavior: "Kept", invert: false } },
      /Split: behavior "Kept" is not supported/,
    ],
    [
      { pre_tokenizer: { type: "Split", pattern: { Regex: "a\\Kb" }, behavior: "Isolated", invert: false } },
      /the regular expression "a\\\\Kb" has \\K, which is not supported/,
    ],
    [
      { pre_tokenizer: { type: "Split", pattern: { Regex: "[z-a]" }, behavior: "Isolated", invert: false } },
      /the regular expression "\[z-a\]" is not valid/,
    ],
    [
      { pre_tokenizer: { type: "Split", pattern: { Regex: "(a|b" }, behavior: "Isolated", invert: false } },
      /has a group without end, which is not supported/,
    ],
    [{ decoder: { type: "CTC" } }, /decoder CTC is not supported/],
  ];
  for (const [change, message] of cases) {
    test(message.source, () => {
      expect(() => tokenizerOf({ base: "bytes", model: {}, change })).toThrow(message);
    });
  }
  test("dropout, and prefixes inside words", () => {
    const of = (model: object) => () => tokenizerOf({ base: "bytes", model, change: {} });
    expect(of({ dropout: 0.1 })).toThrow(/model\.dropout/);
    expect(of({ continuing_subword_prefix: "##" })).toThrow(/model\.continuing_subword_prefix/);
    expect(of({ dropout: 0, continuing_subword_prefix: "" })).not.toThrow();
  });
});

test("300,000 added tokens are found, and found quickly", () => {
  const vocab = (byteTokenizerJson().model as { vocab: Record<string, number> }).vocab;
  const first = Object.keys(vocab).length;
  const added_tokens = Array.from({ length: 300_000 }, (_, i) => ({
    id: first + i,
    content: `<extra_${i}>`,
  }));
  const tokenizer = tokenizerOf({ base: "bytes", model: {}, change: { added_tokens } });
  expect(Array.from(tokenizer.encode("<extra_12><extra_299999>"))).toEqual([first + 12, first + 299_999]);
  expect(tokenizer.decode([first + 7, first + 70])).toBe("<extra_7><extra_70>");
  const text = "the cat <extra_ sat <extra_4711> on <extra_300000> ".repeat(2000);
  const began = performance.now();
  const ids = tokenizer.encode(text);
  expect(performance.now() - began).toBeLessThan(5000);
  expect(ids.filter((id) => id >= first)).toEqual(new Int32Array(2000).fill(first + 4711));
});

test("the longest of the added tokens that begin first", () => {
  const contents = ["<a", "<a><b", "<a><b><c>", "><", "b>"];
  const vocab = (byteTokenizerJson().model as { vocab: Record<string, number> }).vocab;
  const first = Object.keys(vocab).length;
  const added_tokens = contents.map((content, i) => ({ id: first + i, content }));
  const tokenizer = tokenizerOf({ base: "bytes", model: {}, change: { added_tokens } });
  const found = (text: string): number[] =>
    Array.from(tokenizer.encode(text)).flatMap((id) => (id >= first ? [id - first] : []));
  expect(found("<a><b><c>")).toEqual([2]);
  expect(found("<a><b><d>")).toEqual([1, 3]);
  expect(found("<a><")).toEqual([0, 3]);
  expect(found("x<a b>")).toEqual([0, 4]);
});
