import { expect, test } from "bun:test";
import { previewParts } from "../../src/data/preview.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { byteFolder, llamaFolder } from "./tiny-tokenizer.ts";

test.each([llamaFolder(), byteFolder()])(
  "a cut amid a character's bytes leaves the character whole",
  (dir) => {
    const tokenizer = Tokenizer.load(dir);
    const text = "a👋世b";
    const ids = tokenizer.encode(text);
    for (let first = 1; first < ids.length; first++) {
      for (let end = first + 1; end <= ids.length; end++) {
        const labels = ids.map((id, i) => (i >= first && i < end ? id : -100));
        const parts = previewParts(tokenizer, { ids, labels });
        expect(parts.map((part) => part.text).join("")).toBe(text);
        for (const part of parts) expect(part.text.isWellFormed()).toBe(true);
      }
    }
  },
);

test("ids without a tokenizer are shown as numbers", () => {
  const ids = Int32Array.of(5, 60, 7);
  expect(previewParts(null, { ids, labels: Int32Array.of(5, -100, 7) })).toEqual([
    { text: "5 60", trained: false },
    { text: " 7", trained: true },
  ]);
});
