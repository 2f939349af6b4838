// An answer on a terminal: broken at words whatever pieces it comes in, code as it is.

import { describe, expect, test } from "bun:test";
import { WordWrap } from "../../src/cli/terminal/word-wrap.ts";

/** `text` as it is written when it comes `size` code points at a time. */
function wrapped(text: string, columns: number, size: number): string {
  const wrap = new WordWrap(() => columns);
  const points = [...text];
  let written = "";
  for (let at = 0; at < points.length; at += size) written += wrap.push(points.slice(at, at + size).join(""));
  return written + wrap.end();
}

const cases: [what: string, text: string, columns: number, written: string][] = [
  ["words", "The quick brown fox jumps", 10, "The quick\nbrown fox\njumps"],
  ["a word that ends at the edge", "1234 56789 abc", 10, "1234 56789\nabc"],
  ["lines of its own", "a b\n\nc d\n", 80, "a b\n\nc d\n"],
  ["a line end where the line is full", "1234567890\nabc", 10, "1234567890\nabc"],
  ["spaces where a line ends", "12345    678901  \nx", 8, "12345\n678901  \nx"],
  ["spaces past the edge", "1234567  \nx", 8, "1234567\nx"],
  ["indentation", "  - one two three", 12, "  - one two\nthree"],
  ["tabs", "a\tb cdef", 10, "a\tb\ncdef"],
  ["a word wider than the line", "see https://example.org/ab now", 10, "see\nhttps://example.org/ab now"],
  ["what follows such a word", "123456789012 34567 890", 10, "123456789012 34567\n890"],
  ["a no-break space", "12345 100\u00a0km", 10, "12345\n100\u00a0km"],
  ["Chinese", "今天天气很好,我们去。", 10, "今天天气很\n好,我们\n去。"],
  ["closing marks stay behind what they close", "日本語（日本）。日本", 14, "日本語（日\n本）。日本"],
  ["opening marks stay before what they open", "日本語日「本」", 10, "日本語日\n「本」"],
  ["Chinese among words", "abc 日本語 def", 8, "abc 日本\n語 def"],
  ["emoji", "ok 👍🏽👍🏽 👩‍👩‍👧 yes", 8, "ok 👍🏽👍🏽\n👩‍👩‍👧 yes"],
  [
    "accents of their own",
    "e\u0301e\u0301e\u0301 e\u0301e\u0301e\u0301",
    6,
    "e\u0301e\u0301e\u0301\ne\u0301e\u0301e\u0301",
  ],
  [
    "code in fences",
    "so:\n```js\nlet a = 1 + 22;\n```\nand so on",
    8,
    "so:\n```js\nlet a = 1 + 22;\n```\nand so\non",
  ],
  [
    "a fence ends by as many of the same marks",
    "~~~~\na b c d e f\n```\n~~~\na b c d e f\n~~~~~\na b c d e f",
    8,
    "~~~~\na b c d e f\n```\n~~~\na b c d e f\n~~~~~\na b c d\ne f",
  ],
  ["a fence in a list", "1. ```\n   a b c d e f\n   ```\n", 8, "1. ```\n   a b c d e f\n   ```\n"],
  [
    "a fence in a quote",
    "> ```js\n> a b c d e f\n>\n> ```\n> a b c d\n",
    8,
    "> ```js\n> a b c d e f\n>\n> ```\n> a b c\nd\n",
  ],
  [
    "a fence in a quote in a list",
    "- > ~~~\n  > a b c d e f\n  > ~~~\n  > a b c",
    8,
    "- > ~~~\n  > a b c d e f\n  > ~~~\n  > a b\nc",
  ],
  [
    "a quote's end ends its fence",
    "> ```\n> a b c d e f\na b c d e f",
    8,
    "> ```\n> a b c d e f\na b c d\ne f",
  ],
  [
    "an empty line ends a quote's fence",
    "> > ```\n> > a b c d e\n\n> a b c d",
    8,
    "> > ```\n> > a b c d e\n\n> a b c\nd",
  ],
  [
    "the end of the inner quote, too",
    "> > ```\n> > a b c d e\n> a b c d",
    8,
    "> > ```\n> > a b c d e\n> a b c\nd",
  ],
  ["a quoted fence in code is code", "```\n> ```\na b c d e f\n```", 8, "```\n> ```\na b c d e f\n```"],
  ["code in a line is no fence", "```a```\nb c d e f", 8, "```a```\nb c d e\nf"],
  [
    "indented code",
    "so:\n\n    a = b + c\n\n\td = e + f\nand so on",
    8,
    "so:\n\n    a = b + c\n\n\td = e + f\nand so\non",
  ],
  ["indented list", "- a\n    - b c d\n\n    - e f g", 9, "- a\n    - b c\nd\n\n    - e f\ng"],
  ["indentation below text is no code", "text\n    a b c d", 9, "text\n    a b c\nd"],
];

describe.each(cases)("%s", (_, text, columns, written) => {
  test.each([1, 2, 3, 7, Number.POSITIVE_INFINITY])("in pieces of %d", (size) => {
    expect(wrapped(text, columns, size)).toBe(written);
  });
});

test("a word is written as soon as its end has come, code at once", () => {
  const wrap = new WordWrap(() => 80);
  expect(wrap.push("The qui")).toBe("The");
  expect(wrap.push("ck brown")).toBe(" quick");
  expect(wrap.push("\n```\nlet a")).toBe(" brown\n```\nlet ");
  expect(wrap.push(" = 1")).toBe("a = ");
  expect(wrap.end()).toBe("1");
  expect(wrap.end()).toBe("");
});

test("the width is that of the moment", () => {
  let columns = 20;
  const wrap = new WordWrap(() => columns);
  let written = wrap.push("one two three four ");
  columns = 10;
  written += wrap.push("five six seven ") + wrap.end();
  expect(written).toBe("one two three\nfour five\nsix seven ");
});
