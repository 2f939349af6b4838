// Text of tokens as they come is the text of all of them, and ends before a stop string.

import { expect, test } from "bun:test";
import { TextStream } from "../../src/data/text-stream.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { byteFolder, llamaFolder, randomIntegers } from "./tiny-tokenizer.ts";

const tokenizers = { llama: Tokenizer.load(llamaFolder()), bytes: Tokenizer.load(byteFolder()) };

function streamed(tokenizer: Tokenizer, ids: Iterable<number>, stops: string[] = [], before: number[] = []) {
  const stream = new TextStream(tokenizer, stops, before);
  const parts = Array.from(ids, (id) => stream.push(id));
  parts.push(stream.end());
  return { parts, text: parts.join(""), isStopped: stream.isStopped };
}

for (const [kind, tokenizer] of Object.entries(tokenizers)) {
  test(`${kind}: characters of several bytes come whole`, () => {
    const text = "the cat 🦙 sat é 日本\nhello  world";
    const { parts, text: got } = streamed(tokenizer, tokenizer.encode(text));
    expect(got).toBe(text);
    for (const part of parts) expect(part).not.toContain("\ufffd");
    expect(parts.filter((part) => part !== "").length).toBeGreaterThan(4);
  });

  test(`${kind}: any ids, as decode gives them`, () => {
    const below = randomIntegers(3);
    for (let i = 0; i < 50; i++) {
      // Llama's bytes, ids 3 to 258, become characters only as whole runs of them.
      const first = kind === "llama" ? 259 : 0;
      const ids = Array.from({ length: 20 }, () => first + below(tokenizer.vocabSize - first));
      // Bytes that are no characters are counted one by one or together, as they are cut.
      const plain = (text: string) => text.replace(/\ufffd+/g, "?");
      expect(plain(streamed(tokenizer, ids).text)).toBe(plain(tokenizer.decode(ids, { skipSpecial: true })));
    }
  });

  test(`${kind}: ends before a stop string, however tokens cut it`, () => {
    const ids = tokenizer.encode("hello world the cat sat on the mat");
    for (const [stop, want] of [
      ["cat", "hello world the "],
      ["at on", "hello world the cat s"],
      ["o w", "hell"],
      ["hello", ""],
      ["dog", "hello world the cat sat on the mat"],
      ["mats", "hello world the cat sat on the mat"],
    ] as const) {
      const { text, isStopped } = streamed(tokenizer, ids, ["nowhere", stop]);
      expect([stop, text, isStopped]).toEqual([stop, want, !["dog", "mats"].includes(stop)]);
    }
  });
}

test("a first token keeps its space behind a prompt", () => {
  const { llama } = tokenizers;
  const before = [...llama.encode("the cat")];
  const ids = [...llama.encode("the cat sat on")].slice(before.length);
  expect(streamed(llama, ids, [], before).text).toBe(" sat on");
  expect(streamed(llama, ids).text).toBe("sat on");
});
