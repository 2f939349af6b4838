// Attention in which a position sees the `window` positions up to its own.

import { expect, test } from "bun:test";
import type { AttentionShape } from "../../src/native/index.ts";
import { tokensOf } from "./attention-reference.ts";
import {
  type Activation,
  alignedGaps,
  checkBoth,
  columnsOf,
  dtypes,
  nameOf,
  runBoth,
  unalignedGaps,
} from "./attention-runs.ts";
import { forEachBackend } from "./harness.ts";
import { Random, roundTo } from "./numbers.ts";

// Smaller than a tile, as large, larger and no multiple, larger than the sample. Tiles have 96 keys and panels 64 rows
// of all a group's heads on the CPU; on CUDA 32 to 128 rows by 16 to 64 keys, without tensor cores 16 by 32.
const cases: [AttentionShape, number[]][] = [
  [{ heads: 1, kvHeads: 1, headDim: 1, window: 1 }, [1, 3, 17]],
  [{ heads: 2, kvHeads: 2, headDim: 3, window: 2 }, [65, 0, 129, 1]],
  [{ heads: 3, kvHeads: 1, headDim: 16, window: 31 }, [97, 96, 30]],
  [{ heads: 6, kvHeads: 2, headDim: 24, window: 16 }, [17, 65]],
  [{ heads: 5, kvHeads: 1, headDim: 33, window: 32 }, [129]],
  [{ heads: 1, kvHeads: 1, headDim: 48, window: 96 }, [300, 3]],
  [{ heads: 2, kvHeads: 1, headDim: 40, window: 101 }, [250]],
  [{ heads: 8, kvHeads: 1, headDim: 16, window: 7 }, [40, 90]],
  [{ heads: 2, kvHeads: 1, headDim: 256, window: 20 }, [50]],
  [{ heads: 1, kvHeads: 1, headDim: 64, window: 1000 }, [193]],
];
const tiled: [AttentionShape, number[]][] = [
  [{ heads: 1, kvHeads: 1, headDim: 64, window: 1 }, [63, 0, 130]],
  [{ heads: 4, kvHeads: 2, headDim: 64, window: 64 }, [129, 1, 260]],
  [{ heads: 8, kvHeads: 1, headDim: 64, window: 33 }, [33, 130]],
  [{ heads: 1, kvHeads: 1, headDim: 64, window: 200 }, [400]],
  [{ heads: 2, kvHeads: 1, headDim: 80, window: 70 }, [129, 200]],
  [{ heads: 2, kvHeads: 1, headDim: 100, window: 33 }, [129, 0, 70]],
  [{ heads: 1, kvHeads: 1, headDim: 256, window: 65 }, [130]],
  [{ heads: 2, kvHeads: 1, headDim: 256, window: 10 }, [67, 0, 31]],
  [{ heads: 1, kvHeads: 1, headDim: 96, window: 128 }, [129, 300]],
  [{ heads: 2, kvHeads: 1, headDim: 96, window: 5 }, [65, 1, 128]],
  [{ heads: 1, kvHeads: 1, headDim: 96, window: 97 }, [270]],
  [{ heads: 1, kvHeads: 1, headDim: 128, window: 127 }, [257, 64]],
  [{ heads: 4, kvHeads: 2, headDim: 128, window: 3 }, [127, 0, 2, 129]],
  [{ heads: 1, kvHeads: 1, headDim: 128, window: 160 }, [390]],
];

forEachBackend((device) => {
  for (const [shape, lengths] of tiled) {
    test(`bf16, aligned rows, window ${shape.window}, ${nameOf(shape, lengths)}`, () => {
      checkBoth(device, "bf16", shape, lengths, alignedGaps);
    });
  }
  for (const dtype of dtypes) {
    for (const [shape, lengths] of cases) {
      test(`${dtype}, window ${shape.window}, ${nameOf(shape, lengths)}`, () => {
        checkBoth(device, dtype, shape, lengths, unalignedGaps);
      });
    }
  }

  // The fast and the plain kernels of each backend.
  const kernels: [Activation, number, typeof alignedGaps | typeof unalignedGaps][] = [
    ["f32", 20, unalignedGaps],
    ["bf16", 20, unalignedGaps],
    ["bf16", 64, alignedGaps],
    ["bf16", 96, alignedGaps],
    ["bf16", 128, alignedGaps],
    ["bf16", 256, alignedGaps],
  ];
  for (const [dtype, headDim, gaps] of kernels) {
    const T = 420;
    const inputs = (shape: AttentionShape) => {
      const random = new Random(headDim);
      return {
        qkv: roundTo(dtype, random.floats(T * columnsOf(shape))),
        dout: roundTo(dtype, random.floats(T * shape.heads * headDim)),
      };
    };

    test(`${dtype}, heads of ${headDim}: a window as long as the longest sample gives the bits of none`, () => {
      const shape = { heads: 2, kvHeads: 1, headDim };
      const longest = headDim === 256 ? 70 : 150;
      const lengths = [longest, 20];
      const random = new Random(5);
      const qkv = roundTo(dtype, random.floats(tokensOf(lengths) * columnsOf(shape)));
      const dout = roundTo(dtype, random.floats(tokensOf(lengths) * 2 * headDim));
      const run = (window: number) => runBoth(device, dtype, { ...shape, window }, lengths, qkv, dout, gaps);
      const all = run(0);
      expect(run(longest)).toEqual(all);
      expect(run(2 ** 40)).toEqual(all);
      expect(run(longest - 1)).not.toEqual(all);
    });

    // NaN times a probability of 0 is NaN: where it does not arrive, its tile was not read.
    test(`${dtype}, heads of ${headDim}: tiles outside the window are not read`, () => {
      const shape = { heads: 1, kvHeads: 1, headDim, window: 9 };
      const { qkv, dout } = inputs(shape);
      const rows = (matrix: Float32Array, columns: number, begin: number, end: number) =>
        matrix.subarray(begin * columns, end * columns);
      rows(qkv, 3 * headDim, 0, 1).fill(Number.NaN); // the first key and value
      rows(dout, headDim, T - 1, T).fill(Number.NaN); // the gradient of the last row
      const { o, dqkv } = runBoth(device, dtype, shape, [T], qkv, dout, gaps);
      expect(rows(o, headDim, 0, 9).every(Number.isNaN)).toBe(true);
      expect(rows(o, headDim, 256, T).some(Number.isNaN), "o").toBe(false);
      expect(rows(dqkv, 3 * headDim, T - 9, T - 1).some(Number.isNaN)).toBe(true);
      expect(rows(dqkv, 3 * headDim, 256, 256 + 128 - 16).some(Number.isNaN), "dqkv").toBe(false);
    });

    test(`${dtype}, heads of ${headDim}: a key that is NaN reaches the rows that see it alone`, () => {
      const shape = { heads: 1, kvHeads: 1, headDim, window: 70 };
      const { qkv, dout } = inputs(shape);
      qkv[50 * 3 * headDim + headDim + 3] = Number.NaN;
      const lengths = [300, T - 300];
      const { o } = runBoth(device, dtype, shape, lengths, qkv, dout, gaps);
      for (let t = 0; t < T; t++) {
        const row = o.subarray(t * headDim, (t + 1) * headDim);
        expect(row.every(Number.isNaN), `row ${t}`).toBe(t >= 50 && t < 120);
        expect(row.some(Number.isNaN), `row ${t}`).toBe(t >= 50 && t < 120);
      }
    });
  }
});
