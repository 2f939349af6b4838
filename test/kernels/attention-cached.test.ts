// Attention of several new tokens over their cached prefix, held against attention over the whole samples.

import { expect, test } from "bun:test";
import {
  type AttentionShape,
  attentionCached,
  attentionForward,
  type Device,
  type KvCache,
  kvAppend,
} from "../../src/native/index.ts";
import { bordersOf, referenceForward, tokensOf } from "./attention-reference.ts";
import { type Activation, columnsOf, dtypes, gather, nameOf, spread } from "./attention-runs.ts";
import { forEachBackend, poisoned } from "./harness.ts";
import { expectClose, Random, roundTo, tolerance } from "./numbers.ts";

/** Samples' lengths, and how many of their last tokens are new. */
type Case = [AttentionShape, [length: number, added: number][]];

// Tiles have 96 keys and panels 64 rows of all a group's heads on the CPU; on CUDA 64 and 128 rows by 32 and 64 keys,
// without tensor cores 16 by 32. New tokens begin at any place of a tile.
const cases: Case[] = [
  [{ heads: 1, kvHeads: 1, headDim: 1 }, [[3, 1]]],
  [
    { heads: 3, kvHeads: 1, headDim: 17 },
    [
      [65, 65],
      [129, 1],
      [40, 0],
      [97, 30],
    ],
  ],
  [
    { heads: 4, kvHeads: 2, headDim: 64 },
    [
      [200, 129],
      [300, 2],
      [64, 64],
      [193, 65],
    ],
  ],
  [{ heads: 9, kvHeads: 3, headDim: 64 }, [[150, 50]]],
  [
    { heads: 2, kvHeads: 1, headDim: 96 },
    [
      [260, 140],
      [97, 1],
    ],
  ],
  [
    { heads: 2, kvHeads: 2, headDim: 128 },
    [
      [190, 127],
      [129, 5],
    ],
  ],
  [
    { heads: 2, kvHeads: 1, headDim: 100 },
    [
      [70, 3],
      [5, 1],
    ],
  ],
  [{ heads: 2, kvHeads: 1, headDim: 256 }, [[40, 9]]],
  [
    { heads: 2, kvHeads: 1, headDim: 64, window: 33 },
    [
      [260, 140],
      [20, 20],
      [130, 3],
    ],
  ],
  [{ heads: 1, kvHeads: 1, headDim: 96, window: 1 }, [[150, 90]]],
  [{ heads: 2, kvHeads: 1, headDim: 128, window: 70 }, [[257, 129]]],
  [{ heads: 4, kvHeads: 2, headDim: 24, window: 101 }, [[250, 77]]],
];

/** A cache in which samples lie in slots of their own, not in order; and qkv, of all tokens. */
function filled(
  device: Device,
  dtype: Activation,
  shape: AttentionShape,
  lengths: readonly number[],
  scale = 1,
) {
  const [slotCount, capacity] = [lengths.length + 1, Math.max(...lengths) + 3];
  const parts = [0, 1].map(() =>
    poisoned(device, dtype, [slotCount, shape.kvHeads, capacity, shape.headDim]),
  );
  const cache: KvCache = { k: parts[0]!, v: parts[1]!, capacity };
  const random = new Random(tokensOf(lengths) + shape.headDim);
  const qkv = roundTo(dtype, random.floats(tokensOf(lengths) * columnsOf(shape), scale));
  const slots = Int32Array.from(lengths, (_, s) => lengths.length - s);
  const all = spread(device, dtype, qkv, columnsOf(shape), 0);
  kvAppend(device, cache, all, { cuSeqlens: bordersOf(lengths) }, slots, new Int32Array(slots.length), shape);
  return { cache, qkv, slots, all };
}

/** The rows of the samples' last `added` tokens. */
function lastRows(
  values: ArrayLike<number>,
  width: number,
  lengths: readonly number[],
  added: readonly number[],
) {
  const borders = bordersOf(lengths);
  return Float32Array.from(
    added.flatMap((n, s) =>
      Array.from(values as Float64Array).slice((borders[s + 1]! - n) * width, borders[s + 1]! * width),
    ),
  );
}

forEachBackend((device) => {
  for (const dtype of dtypes) {
    for (const [shape, samples] of cases) {
      const lengths = samples.map(([length]) => length);
      const added = samples.map(([, n]) => n);
      const window = shape.window === undefined ? "" : `, window ${shape.window}`;
      test(`${dtype}, ${nameOf(shape, lengths)}, ${added} of them new${window}`, () => {
        const { cache, qkv, slots } = filled(device, dtype, shape, lengths);
        const width = shape.heads * shape.headDim;
        const wanted = lastRows(referenceForward({ shape, lengths, qkv }).o, width, lengths, added);
        const rows = lastRows(qkv, columnsOf(shape), lengths, added);
        for (const gap of [0, 1]) {
          const input = spread(device, dtype, rows, columnsOf(shape), gap);
          const o = poisoned(device, dtype, [tokensOf(added), width + gap]).columns(0, width);
          const borders = { cuSeqlens: bordersOf(added) };
          attentionCached(device, o, input, cache, borders, slots, Int32Array.from(lengths), shape);
          expectClose(gather(device, o), wanted, tolerance[dtype], `gap ${gap}`);
        }
      });
    }

    test(`${dtype}: samples that are new as a whole get the bits of attention without a cache`, () => {
      for (const shape of [
        { heads: 4, kvHeads: 2, headDim: 64 },
        { heads: 2, kvHeads: 1, headDim: 20 },
      ]) {
        const lengths = [70, 1, 131];
        const { cache, slots, all } = filled(device, dtype, shape, lengths);
        const samples = { cuSeqlens: bordersOf(lengths) };
        const [once, cached] = [0, 1].map(() =>
          poisoned(device, dtype, [tokensOf(lengths), shape.heads * shape.headDim]),
        );
        attentionForward(device, once!, null, all, samples, shape);
        attentionCached(device, cached!, all, cache, samples, slots, Int32Array.from(lengths), shape);
        expect(device.readFloats(cached!)).toEqual(device.readFloats(once!));
      }
    });

    test(`${dtype}: a token's bits do not depend on how many are read with it`, () => {
      for (const shape of [
        { heads: 4, kvHeads: 2, headDim: 64 },
        { heads: 4, kvHeads: 2, headDim: 64, window: 30 },
        { heads: 1, kvHeads: 1, headDim: 20, window: 101 },
        { heads: 3, kvHeads: 1, headDim: 33, window: 1 },
      ]) {
        const [length, width] = [300, shape.heads * shape.headDim];
        // Scores far enough apart that their greatest moves on from tile to tile.
        const { cache, qkv, slots } = filled(device, dtype, shape, [length], 5);
        const read = (begin: number, end: number) => {
          const rows = qkv.slice(begin * columnsOf(shape), end * columnsOf(shape));
          const input = spread(device, dtype, rows, columnsOf(shape), 0);
          const o = poisoned(device, dtype, [end - begin, width]);
          const borders = { cuSeqlens: Int32Array.of(0, end - begin) };
          attentionCached(device, o, input, cache, borders, slots, Int32Array.of(end), shape);
          return device.readFloats(o);
        };
        const whole = read(0, length);
        for (const [begin, end] of [
          [1, 300],
          [95, 130],
          [190, 191],
          [293, 300],
        ] as const)
          expect(read(begin, end), `from ${begin} to ${end}`).toEqual(
            whole.slice(begin * width, end * width),
          );
      }
    });
  }

  test("no tokens: nothing is written, nothing fails", () => {
    const shape = { heads: 2, kvHeads: 1, headDim: 4 };
    const empty = (columns: number) => device.allocate("f32", [0, columns]);
    const cache = { k: empty(1), v: empty(1), capacity: 0 };
    for (const cuSeqlens of [Int32Array.of(0), Int32Array.of(0, 0)]) {
      const none = new Int32Array(cuSeqlens.length - 1);
      attentionCached(device, empty(8), empty(16), cache, { cuSeqlens }, none, none, shape);
    }
  });
});
