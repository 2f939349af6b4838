import { expect, test } from "bun:test";
import {
  countOf,
  fitTable,
  formatBytes,
  formatCount,
  formatList,
  formatSeconds,
  formatTable,
} from "../../src/cli/terminal/format.ts";

test("bytes", () => {
  expect([0, 1023, 1536, 150 * 1024, 3 * 1024 ** 3].map(formatBytes)).toEqual([
    "0 B",
    "1023 B",
    "1.5 KiB",
    "150 KiB",
    "3.0 GiB",
  ]);
});

test("seconds", () => {
  expect([0.25, 59.4, 61, 3725, Number.POSITIVE_INFINITY].map(formatSeconds)).toEqual([
    "0.3 s",
    "59 s",
    "1 min 01 s",
    "1 h 02 min",
    "?",
  ]);
});

test("counts and tables", () => {
  expect(formatCount(1234567.8)).toBe("1,234,568");
  expect([0, 1, 2500].map((n) => countOf(n, "step"))).toEqual(["0 steps", "1 step", "2,500 steps"]);
  expect(
    formatTable(
      [
        ["a", "10"],
        ["long", "5"],
      ],
      [1],
    ),
  ).toBe("a     10\nlong   5");
});

test("tables count wide characters as two, and write control characters out", () => {
  expect(
    formatTable([
      ["日本", "x"],
      ["a\x1b\n", "y"],
    ]),
  ).toBe("日本     x\na\\x1b\\n  y");
});

test("a table that is too wide goes on below, with its names", () => {
  const rows = [
    ["name", "one", "two"],
    ["a", "1", "22222"],
  ];
  expect(fitTable(rows, [1, 2], undefined)).toBe(formatTable(rows, [1, 2]));
  expect(fitTable(rows, [1, 2], 18)).toBe("name  one    two\na       1  22222");
  expect(fitTable(rows, [1, 2], 15)).toBe("name  one\na       1\n\nname    two\na     22222");
  expect(fitTable(rows, [], 3)).toBe("name  one\na     1\n\nname  two\na     22222");
});

test("a list wraps at the right", () => {
  const rows = [
    ["a", "one two three four five six"],
    ["long", "x"],
  ] as const;
  expect(formatList(rows, undefined)).toBe("a     one two three four five six\nlong  x");
  expect(formatList(rows, 28)).toBe("a     one two three four\n      five six\nlong  x");
});
