import { expect, test } from "bun:test";
import { makeBatch } from "../../src/data/batch.ts";
import type { Sample } from "../../src/data/sample.ts";

function sample(ids: number[], labels: number[]): Sample {
  return { ids: Int32Array.from(ids), labels: Int32Array.from(labels), truncated: false };
}
const long = sample([1, 10, 11, 12, 2], [-100, -100, 11, 12, 2]);
const short = sample([1, 20, 2], [1, 20, 2]);
const silent = sample([1, 30], [-100, -100]);

test("packed: end to end, positions from 0, no target across samples", () => {
  const batch = makeBatch([long, short, silent], { packing: true });
  expect(Array.from(batch.ids)).toEqual([1, 10, 11, 12, 2, 1, 20, 2, 1, 30]);
  expect(Array.from(batch.positions)).toEqual([0, 1, 2, 3, 4, 0, 1, 2, 0, 1]);
  expect(Array.from(batch.cuSeqlens)).toEqual([0, 5, 8, 10]);
  expect(Array.from(batch.lengths)).toEqual([5, 3, 2]);
  expect(Array.from(batch.targetRows)).toEqual([1, 2, 3, 5, 6]);
  expect(Array.from(batch.targets)).toEqual([11, 12, 2, 20, 2]);
  expect(batch.tokens).toBe(10);
});

test("padded: every sample as wide as the longest, pads at the end and never targets", () => {
  const batch = makeBatch([short, long], { packing: false, padId: 2 });
  expect(Array.from(batch.ids)).toEqual([1, 20, 2, 2, 2, 1, 10, 11, 12, 2]);
  expect(Array.from(batch.positions)).toEqual([0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
  expect(Array.from(batch.cuSeqlens)).toEqual([0, 5, 10]);
  expect(Array.from(batch.lengths)).toEqual([3, 5]);
  expect(Array.from(batch.targetRows)).toEqual([0, 1, 6, 7, 8]);
  expect(Array.from(batch.targets)).toEqual([20, 2, 11, 12, 2]);
  expect(batch.tokens).toBe(8);
});

test("both layouts ask for the same predictions", () => {
  const packed = makeBatch([long, short], { packing: true });
  const padded = makeBatch([long, short], { packing: false, padId: 0 });
  expect(padded.targets).toEqual(packed.targets);
  const seen = (batch: typeof packed): number[] => Array.from(batch.targetRows, (row) => batch.ids[row]!);
  expect(seen(padded)).toEqual(seen(packed));
});

test("the label differs from the id where a row of tokens says so", () => {
  const batch = makeBatch([sample([5, 6, 7], [9, 8, -100])], { packing: true });
  expect([Array.from(batch.targetRows), Array.from(batch.targets)]).toEqual([[0], [8]]);
});

test("no samples, and labels of another length, are refused", () => {
  expect(() => makeBatch([], { packing: true })).toThrow(/at least one sample/);
  expect(() => makeBatch([sample([1, 2], [1])], { packing: true })).toThrow(/2 ids and 1 labels/);
  expect(() => makeBatch([sample([], [])], { packing: true })).toThrow(/at least one/);
});
