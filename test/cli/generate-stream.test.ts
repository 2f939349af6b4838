// A completion on a terminal, as its tokens come.

import { expect, test } from "bun:test";
import { streamTo } from "../../src/cli/generate.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { byteFolder } from "../data/tiny-tokenizer.ts";

test("is broken between words, what steers a terminal written out", () => {
  const tokenizer = Tokenizer.load(byteFolder());
  const written: string[] = [];
  const stream = streamTo({ write: (text) => void written.push(text) }, tokenizer, Int32Array.of(), () => 10);
  for (const id of tokenizer.encode("The quick brown fox \x1b jumps")) stream.push(id);
  stream.end();
  expect(written.join("")).toBe("The quick\nbrown fox\n\\x1b jumps\n");
  expect(written.length).toBeGreaterThan(5);
});
