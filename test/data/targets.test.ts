import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Encoder, type EncoderOptions } from "../../src/data/encode.ts";
import { firstAnswerToken, targetLabels } from "../../src/data/targets.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { byteFolder, llamaFolder } from "./tiny-tokenizer.ts";

const SMOLLM2 = join(import.meta.dir, "../../../shared/data/smollm2-tokenizer");
const GOLDEN = join(import.meta.dir, "../golden/data/boundary.json");
const options: EncoderOptions = {
  template: { kind: "auto" },
  maxLength: null,
  parseSpecial: false,
  vocabSize: null,
};

test("a token is a target when any character of an answer lies in it", () => {
  const encoding = {
    ids: Int32Array.of(5, 6, 7, 8, 9),
    starts: Int32Array.of(0, 0, 2, 2, 4), // the token 7 has no width: it counts as the character behind it
    ends: Int32Array.of(1, 2, 2, 4, 6),
  };
  const labels = (begin: number, stop: number): number[] =>
    Array.from(targetLabels(encoding, [{ begin, end: stop, stop }]));
  expect(labels(1, 2)).toEqual([-100, 6, -100, -100, -100]);
  expect(labels(2, 3)).toEqual([-100, -100, 7, 8, -100]);
  expect(labels(3, 5)).toEqual([-100, -100, -100, 8, 9]);
  expect(labels(3, 3)).toEqual([-100, -100, -100, -100, -100]);
  const ends = [{ begin: 4, end: 4, stop: 6 }];
  expect(Array.from(targetLabels(encoding, ends))).toEqual([-100, -100, -100, -100, 9]);
  expect(firstAnswerToken(encoding, ends)).toBe(Number.POSITIVE_INFINITY);
  expect(firstAnswerToken(encoding, [...ends, { begin: 1, end: 3, stop: 3 }])).toBe(1);
  const first = [{ begin: 0, end: 1, stop: 1 }];
  expect([0, 1, 2].map((from) => firstAnswerToken(encoding, first, from))).toEqual([
    0,
    1,
    Number.POSITIVE_INFINITY,
  ]);
});

describe("a prompt's end that merges with its answer is learned", () => {
  for (const [kind, dir] of [
    ["visible spaces", llamaFolder()],
    ["byte level", byteFolder()],
  ] as const) {
    const tokenizer = Tokenizer.load(dir);
    const learned = (prompt: string, completion: string): string => {
      const { labels } = new Encoder(tokenizer, options).encode({ prompt, completion });
      const targets = labels.subarray(0, -1).filter((label) => label !== -100);
      return tokenizer
        .decode([tokenizer.eosId!, ...targets])
        .replace(tokenizer.eosToken, "")
        .trim();
    };
    test(kind, () => {
      expect(learned("the ", "cat")).toBe("cat");
      expect(learned("the c", "at")).toBe("cat");
      expect(learned("the cat", " sat")).toBe("sat");
      expect(learned("the", "")).toBe("");
      expect(learned("", "hello")).toBe("hello");
      expect(learned("👋", "世é")).toBe("世é");
    });

    test(`${kind}: rows in which only the end is learned say so`, () => {
      const endOnly = (row: unknown, maxLength: number | null = null): boolean =>
        new Encoder(tokenizer, { ...options, maxLength }).encode(row).endOnly;
      expect(endOnly({ prompt: "the ", completion: "" })).toBe(true);
      expect(endOnly({ prompt: "the ", completion: "cat" })).toBe(false);
      expect(endOnly({ prompt: "the ", completion: "cat" }, 1)).toBe(false); // nothing is learned at all
      expect(endOnly({ text: "the" })).toBe(false);
      expect(endOnly({ input_ids: [5] })).toBe(false);
      const turns = (answer: string) => ({
        messages: [
          { role: "user", content: "hello" },
          { role: "assistant", content: answer },
        ],
      });
      expect(endOnly(turns("world"))).toBe(false);
      if (kind === "byte level") expect(endOnly(turns(""))).toBe(true);
    });
  }
});

describe.skipIf(!existsSync(SMOLLM2))("SmolLM2's tokenizer (skipped where ../shared/data is absent)", () => {
  test("ids and labels where prompt and answer merge are Hugging Face's", () => {
    const tokenizer = Tokenizer.load(SMOLLM2);
    const encoder = new Encoder(tokenizer, options);
    const cases = JSON.parse(readFileSync(GOLDEN, "utf8")) as {
      row: Record<string, unknown>;
      ids: number[];
      labels: number[];
    }[];
    expect(cases.length).toBe(13);
    for (const { row, ids, labels } of cases) {
      const sample = encoder.encode(row);
      const eos = "prompt" in row ? [tokenizer.eosId!] : [];
      expect({ row, ids: Array.from(sample.ids) }).toEqual({ row, ids: [...ids, ...eos] });
      expect({ row, labels: Array.from(sample.labels) }).toEqual({ row, labels: [...labels, ...eos] });
    }
  });
});
