import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { holdoutOrder, philox, seedKey, shuffle } from "../../src/data/philox.ts";

interface Case {
  key: string[];
  counter: string[];
  words: string[];
}
const golden = JSON.parse(
  readFileSync(join(import.meta.dir, "../golden/data/philox.json"), "utf8"),
) as Case[];

test("the words are the reference's", () => {
  expect(golden.length).toBe(5);
  for (const { key, counter, words } of golden) {
    const [k0, k1, c0, c1, c2, c3] = [...key, ...counter].map((word) => Number.parseInt(word, 16));
    const out = new Uint32Array(4);
    philox(k0!, k1!, c0!, c1!, c2!, c3!, out);
    expect(Array.from(out, (word) => word.toString(16).padStart(8, "0"))).toEqual(words);
  }
});

/** Philox4x32-10 by BigInt, straight from the paper's formula. */
function philoxByBigInt(key: number[], counter: number[]): number[] {
  const mask = 0xffffffffn;
  let [k0, k1] = key.map(BigInt) as [bigint, bigint];
  let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint];
  for (let round = 0; round < 10; round++) {
    const p0 = 0xd2511f53n * c0;
    const p1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & mask, (p0 >> 32n) ^ c3 ^ k1, p0 & mask];
    k0 = (k0 + 0x9e3779b9n) & mask;
    k1 = (k1 + 0xbb67ae85n) & mask;
  }
  return [c0, c1, c2, c3].map(Number);
}

test("float64 arithmetic is exact: 2,000 random counters agree with BigInt", () => {
  let state = 1;
  const word = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state;
  };
  const out = new Uint32Array(4);
  for (let i = 0; i < 2000; i++) {
    const key = [word(), word()];
    const counter =
      i % 2 === 0 ? [word(), word(), word(), word()] : [0xffffffff, 0xffffffff, word(), i << 16];
    philox(key[0]!, key[1]!, counter[0]!, counter[1]!, counter[2]!, counter[3]!, out);
    expect(Array.from(out)).toEqual(
      philoxByBigInt(
        key,
        counter.map((one) => one >>> 0),
      ),
    );
  }
});

test("a shuffle is a permutation, the same each time, another each epoch and seed", () => {
  const order = shuffle(1000, 42, 0);
  expect(Array.from(order).sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
  expect(shuffle(1000, 42, 0)).toEqual(order);
  expect(shuffle(1000, 42, 1)).not.toEqual(order);
  expect(shuffle(1000, 43, 0)).not.toEqual(order);
  expect(shuffle(1000, 42n + (1n << 32n), 0)).not.toEqual(order);
  expect(holdoutOrder(1000, 42)).not.toEqual(order);
  expect(Array.from(shuffle(0, 1, 0))).toEqual([]);
  expect(Array.from(shuffle(1, 1, 0))).toEqual([0]);
});

test("the shuffle's words are those of stream 2, from the last place down", () => {
  const out = new Uint32Array(4);
  philox(42, 0, 0, 3, 0, 2 << 16, out);
  const expected = [0, 1, 2, 3, 4];
  for (let last = 4, drawn = 0; last > 0; last--, drawn++) {
    const pick = out[drawn]! % (last + 1);
    [expected[last], expected[pick]] = [expected[pick]!, expected[last]!];
  }
  expect(Array.from(shuffle(5, 42, 3))).toEqual(expected);
});

test("every permutation of four is as likely: chi-squared over 12,000 epochs", () => {
  const counts = new Map<string, number>();
  for (let epoch = 0; epoch < 12000; epoch++) {
    const key = shuffle(4, 7, epoch).join("");
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  expect(counts.size).toBe(24);
  const chi = [...counts.values()].reduce((sum, count) => sum + (count - 500) ** 2 / 500, 0);
  expect(chi).toBeLessThan(49.7); // 0.1 % point with 23 degrees of freedom
});

test("seeds that are no unsigned 64-bit integers are refused", () => {
  expect(seedKey(2n ** 64n - 1n)).toEqual([0xffffffff, 0xffffffff]);
  expect(seedKey(2 ** 33 + 5)).toEqual([5, 2]);
  for (const seed of [-1, 0.5, Number.NaN, 2n ** 64n]) expect(() => seedKey(seed)).toThrow(/seed/);
});
