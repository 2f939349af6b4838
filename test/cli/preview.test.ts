import { expect, test } from "bun:test";
import { markTargets } from "../../src/cli/preview.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { llamaFolder } from "../data/tiny-tokenizer.ts";

test("what is trained stands in brackets; the first token has nothing before it to be told from", () => {
  const tokenizer = Tokenizer.load(llamaFolder());
  const ids = Int32Array.of(1, ...tokenizer.encode("hello world"), 2);
  const marked = (labels: Int32Array) => markTargets(tokenizer, { ids, labels, truncated: false });
  expect(marked(ids)).toBe(`${tokenizer.decode([1])}⟦${tokenizer.decode(ids).slice(3)}⟧`);
  expect(marked(ids.map((id, i) => (i < ids.length - 1 ? -100 : id)))).toEndWith("hello world⟦</s>⟧");
  expect(marked(ids.map(() => -100))).not.toContain("⟦");
});
