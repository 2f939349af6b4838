import { expect, test } from "bun:test";
import { countOf, formatBytes, formatCount, formatSeconds, formatTable } from "../../src/cli/format.ts";

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
