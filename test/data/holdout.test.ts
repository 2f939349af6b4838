// What --eval-split holds out.

import { describe, expect, test } from "bun:test";
import { Dataset } from "../../src/data/dataset.ts";
import { splitHoldout } from "../../src/data/holdout.ts";
import { loadDataset } from "../../src/data/load-dataset.ts";
import { holdoutOrder } from "../../src/data/philox.ts";
import { llamaFolder } from "./tiny-tokenizer.ts";

const tokenizerDir = llamaFolder();
/** Rows of two ids, the second from 3; equal numbers are twins. */
const load = (numbers: readonly number[]) =>
  loadDataset({
    rows: numbers.map((n) => ({ input_ids: [2, 3 + n] })),
    tokenizerDir,
    maxLength: 8,
    vocabSize: 100_000,
  });
const numbersOf = (dataset: Dataset) =>
  Array.from({ length: dataset.length }, (_, i) => dataset.get(i).ids[1]! - 3);
const range = (n: number) => Array.from({ length: n }, (_, i) => i);

test("a share or a count parts the samples, the same for a seed; both parts keep the order", async () => {
  const all = await load(range(40));
  const { train, held } = splitHoldout(all, 0.25, 42);
  expect([train.length, held.length]).toEqual([30, 10]);
  expect([...numbersOf(train), ...numbersOf(held)].sort((a, b) => a - b)).toEqual(range(40));
  for (const part of [train, held]) expect(numbersOf(part)).toEqual(numbersOf(part).sort((a, b) => a - b));
  expect(numbersOf(splitHoldout(all, 10, 42).held)).toEqual(numbersOf(held));
  expect(numbersOf(splitHoldout(all, 10, 43).held)).not.toEqual(numbersOf(held));
  expect(train.fingerprint).not.toBe(held.fingerprint);
  for (const amount of [0, -1, 40, 1.5, Number.NaN, 0.999, 0.001]) {
    expect(() => splitHoldout(all, amount, 42)).toThrow(/--eval-split/);
  }
});

test("without twins the first rows of the seed's order are held out", async () => {
  const { held } = splitHoldout(await load(range(50)), 7, 42);
  expect(numbersOf(held)).toEqual([...holdoutOrder(50, 42).slice(0, 7)].sort((a, b) => a - b));
});

describe("twins", () => {
  test("rows with equal tokens are on one side, also those of other labels and of a mixture", async () => {
    const numbers = range(200).map((i) => (i * i) % 61);
    const all = await load(numbers);
    for (const seed of range(20)) {
      const { train, held, asked, count } = splitHoldout(all, 0.2, seed);
      const trained = new Set(numbersOf(train));
      expect(numbersOf(held).filter((n) => trained.has(n))).toEqual([]);
      expect(train.length + held.length).toBe(200);
      expect([asked, count, held.length]).toEqual([40, 40, 40]);
    }
    const rows = [
      [2, 5],
      [2, 6],
      [2, 5],
    ].map((ids, i) => ({ input_ids: ids, labels: [-100, i] }));
    const labeled = await loadDataset({ rows, tokenizerDir, maxLength: 8, vocabSize: 100 });
    for (const seed of range(9)) {
      expect(numbersOf(splitHoldout(labeled, 1, seed).held)).toEqual([3]);
      expect(numbersOf(splitHoldout(labeled, 2, seed).held)).toEqual([2, 2]);
    }
    const mixed = Dataset.mix([await load([1, 2, 3, 4]), await load([3, 4, 5, 6])], [2, 1], 1);
    for (const seed of range(9)) {
      const { train, held } = splitHoldout(mixed, 3, seed);
      expect(held.length).toBe(3);
      const trained = new Set(numbersOf(train));
      expect(numbersOf(held).filter((n) => trained.has(n))).toEqual([]);
    }
  });

  test("as many are held out as come nearest to what was asked, and some are left", async () => {
    // sizes of groups, asked, held
    const cases: [number[], number, number][] = [
      [[4, 4, 4, 4, 4], 5, 4],
      [[4, 4, 4, 4, 4], 6, 4],
      [[4, 4, 4, 4, 4], 7, 8],
      [[4, 4, 4, 4, 4], 1, 4],
      [[4, 4, 4, 4, 4], 19, 16],
      [[4, 3, 3], 6, 6],
      [[4, 3, 3], 5, 4],
      [[2, 100], 60, 100],
      [[2, 100], 40, 2],
      [[2, 2, 3, 7], 12, 12],
      [[5, 5, 3], 6, 5],
      [[6, 10, 15], 11, 10],
      [[6, 10, 15], 22, 21],
      [[1, 20], 10, 1],
    ];
    for (const [sizes, amount, expected] of cases) {
      const all = await load(sizes.flatMap((size, i) => Array<number>(size).fill(i)));
      for (const seed of range(8)) {
        const { train, held, asked, count } = splitHoldout(all, amount, seed);
        expect({ sizes, amount, held: held.length }).toEqual({ sizes, amount, held: expected });
        expect([asked, count]).toEqual([amount, expected]);
        expect(train.length).toBe(all.length - expected);
        expect(numbersOf(train).filter((n) => numbersOf(held).includes(n))).toEqual([]);
      }
    }
    const same = await load([7, 7, 7]);
    expect(() => splitHoldout(same, 1, 42)).toThrow(/all 3 samples have the same tokens/);
  });

  test("the sums are the best there are, by trying all", async () => {
    let state = 1;
    const random = (n: number) => {
      state = (state * 48271) % 2147483647;
      return state % n;
    };
    for (let round = 0; round < 60; round++) {
      const sizes = Array.from({ length: 2 + random(6) }, () => 1 + random(9));
      const total = sizes.reduce((sum, size) => sum + size, 0);
      const amount = 1 + random(total - 1);
      let best = total;
      for (let subset = 1; subset < 2 ** sizes.length - 1; subset++) {
        const sum = sizes.reduce((all, size, i) => ((subset >> i) & 1 ? all + size : all), 0);
        best = Math.min(best, Math.abs(sum - amount));
      }
      const all = await load(sizes.flatMap((size, i) => Array<number>(size).fill(i)));
      const { count } = splitHoldout(all, amount, round);
      expect({ sizes, amount, off: Math.abs(count - amount) }).toEqual({ sizes, amount, off: best });
    }
  });
});

test("at most so many are evaluated; the rest is still held out", async () => {
  const all = await load(range(50));
  const whole = splitHoldout(all, 20, 42);
  const some = splitHoldout(all, 20, 42, 5);
  expect(numbersOf(some.train)).toEqual(numbersOf(whole.train));
  expect([some.held.length, some.count]).toEqual([5, 20]);
  expect(numbersOf(some.held).every((n) => numbersOf(whole.held).includes(n))).toBe(true);
  // a random part, not the file's beginning
  expect(numbersOf(some.held)).not.toEqual(numbersOf(whole.held).slice(0, 5));
  expect(splitHoldout(all, 20, 42, 100).held.length).toBe(20);
});

test("samples that two data sets share are counted by their tokens", async () => {
  const [a, b] = [await load([1, 2, 3, 3]), await load([3, 3, 4, 1, 5])];
  expect(b.countShared(a)).toBe(3);
  expect(a.countShared(b)).toBe(3);
  expect(a.countShared(a)).toBe(4);
  expect((await load([9])).countShared(a)).toBe(0);
});
