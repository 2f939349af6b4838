import { describe, expect, test } from "bun:test";
import {
  displayWidth,
  escapeJson,
  escapeLine,
  escapeText,
  fitParts,
  folded,
  messageText,
  pageWidth,
  quoted,
  shorten,
  shown,
  wrap,
} from "../../src/cli/terminal/text.ts";

describe("what steers a terminal is written out", () => {
  test.each([
    ["\x1b[31mred", "\\x1b[31mred"],
    ["\x9b31m", "\\x9b31m"],
    ["bell\x07 delete\x7f null\0", "bell\\x07 delete\\x7f null\\x00"],
    ["over\rwritten", "over\\rwritten"],
    ["txt\u202eexe", "txt\\u202eexe"],
    ["\u2066a\u2069\u200e\u200f\u061c", "\\u2066a\\u2069\\u200e\\u200f\\u061c"],
    ["a\u2028b\u2029c\u0085d", "a\\u2028b\\u2029c\\x85d"],
  ])("%j", (text, written) => {
    expect(escapeText(text)).toBe(written);
    expect(escapeLine(text)).toBe(written);
    expect(messageText(text)).toBe(written);
    expect(JSON.parse(escapeJson(JSON.stringify(text)))).toBe(text);
    expect(escapeText(escapeJson(JSON.stringify(text)))).toBe(escapeJson(JSON.stringify(text)));
  });

  test("line feeds and tabs stay in texts, not in names", () => {
    expect(escapeText("a\n\tb")).toBe("a\n\tb");
    expect(escapeLine("a\n\tb")).toBe("a\\n\\tb");
  });

  test("letters of any script, emoji and joiners stay", () => {
    const text = "Grüße 日本語 العربية e\u0301 👩‍👩‍👧 ½\u00a0\u200b";
    expect(escapeLine(text)).toBe(text);
  });
});

describe("long texts lose their middle", () => {
  test("by columns", () => {
    expect(shorten("abcdefghij", 10)).toBe("abcdefghij");
    expect(shorten("abcdefghijk", 10)).toBe("abcde…hijk");
    expect(shorten("日本語日本語", 7)).toBe("日…語");
    expect(displayWidth(shorten("👩‍👩‍👧".repeat(50), 20))).toBeLessThanOrEqual(20);
    expect(shorten(`e\u0301`.repeat(10), 5)).toBe(`e\u0301e\u0301…e\u0301e\u0301`);
  });

  test("a huge one costs no time", () => {
    const start = performance.now();
    const text = shorten("x".repeat(50_000_000), 80);
    expect(text).toBe(`${"x".repeat(40)}…${"x".repeat(39)}`);
    expect(messageText(`unknown key ${"k".repeat(5_000_000)}; try`).length).toBeLessThan(300);
    expect(messageText("a b ".repeat(1_000_000)).length).toBeLessThan(5000);
    expect(performance.now() - start).toBeLessThan(2000);
  });

  test("what is written out counts as it is seen", () => {
    expect(quoted('a"', 20)).toBe('"a\\""');
    expect(quoted("\x1b".repeat(1000), 20)).toHaveLength(22);
    expect(shown("\x1b".repeat(1000), 20)).toHaveLength(20);
    expect(messageText("\x1b".repeat(100_000)).length).toBeLessThan(300);
  });
});

describe("lines of a width", () => {
  test("break at spaces, long words where they can be", () => {
    expect(wrap("one two three", 7)).toEqual(["one two", "three"]);
    expect(wrap("日本 日本", 5)).toEqual(["日本", "日本"]);
    expect(wrap("x --a one|two|three|four", 10)).toEqual(["x --a", "one|two|", "three|four"]);
    expect(wrap("abcdefghijkl", 5)).toEqual(["abcde", "fghij", "kl"]);
    expect(wrap("a b c d", 5, " \\")).toEqual(["a b \\", "c d"]);
    expect(wrap("", 5)).toEqual([""]);
  });

  test("parts are dropped by rank, never cut", () => {
    const parts = [
      { text: "step 1/10", rank: 0 },
      { text: "epoch 0.10", rank: 2 },
      { text: "loss 1.5", rank: 1 },
    ];
    expect(fitParts(parts, 80)).toBe("step 1/10  epoch 0.10  loss 1.5");
    expect(fitParts(parts, 25)).toBe("step 1/10  loss 1.5");
    expect(fitParts(parts, 12)).toBe("step 1/10");
    expect(fitParts(parts, 5)).toBe("st…10");
  });

  test.each([
    [undefined, undefined, 80],
    [undefined, 60, 60],
    ["40", 120, 40],
    [undefined, 240, 100],
    ["x", undefined, 80],
    ["0", 70, 70],
    [undefined, 5, 30],
  ])("COLUMNS %p, terminal %p: %p", (columns, terminal, width) => {
    expect(pageWidth(columns, terminal)).toBe(width);
  });
});

test("a sentence is folded between words, what follows indented; a wider word stays whole", () => {
  const text = "a/path/that/is/long: two words";
  expect(folded(text, undefined)).toBe(text);
  expect(folded(text, 30)).toBe(text);
  expect(folded(text, 29)).toBe("a/path/that/is/long: two\n  words");
  expect(folded(text, 8)).toBe("a/path/that/is/long:\n  two\n  words");
  expect(folded("see a/path/that/is/long", 8)).toBe("see\n  a/path/that/is/long");
});
