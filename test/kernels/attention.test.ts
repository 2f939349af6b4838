import { expect, test } from "bun:test";
import {
  type AttentionShape,
  attentionBackward,
  attentionDecode,
  attentionForward,
  Device,
  type KvCache,
  kvAppend,
  NativeError,
} from "../../src/native/index.ts";
import { loadCpuLibrary } from "../../src/native/library.ts";
import { bordersOf, referenceBackward, referenceForward, tokensOf } from "./attention-reference.ts";
import {
  alignedGaps,
  checkBoth,
  columnsOf,
  dtypes,
  gather,
  gradientTolerance,
  nameOf,
  part,
  runBoth,
  spread,
  unalignedGaps,
} from "./attention-runs.ts";
import { forEachBackend, poisoned, upload, uploadInts } from "./harness.ts";
import { expectClose, Random, roundTo, slopes, tolerance } from "./numbers.ts";
import { angles, turn } from "./rope-reference.ts";

// Tiles hold 96 keys, panels 64 rows of all the query heads of a key/value head.
const cases: [AttentionShape, number[]][] = [
  [{ heads: 1, kvHeads: 1, headDim: 1 }, [1, 3, 17]],
  [{ heads: 2, kvHeads: 2, headDim: 3 }, [65, 0, 129, 1]],
  [{ heads: 3, kvHeads: 1, headDim: 16 }, [97, 96, 30]],
  [{ heads: 6, kvHeads: 2, headDim: 24 }, [17, 65]],
  [{ heads: 5, kvHeads: 1, headDim: 33 }, [129]],
  [{ heads: 4, kvHeads: 4, headDim: 48 }, [40, 3]],
  [{ heads: 3, kvHeads: 1, headDim: 64 }, [129, 64]],
  [{ heads: 2, kvHeads: 1, headDim: 96 }, [65, 17]],
  [{ heads: 1, kvHeads: 1, headDim: 128 }, [193]],
  [{ heads: 2, kvHeads: 1, headDim: 256 }, [33]],
];

// Lengths around the borders of the CUDA backend's tiles on tensor cores (32 to 128 rows and keys, 16 or 32 rows a warp), at
// the head sizes that have them. These read rows that are aligned to 16 bytes.
const tiled: [AttentionShape, number[]][] = [
  [{ heads: 1, kvHeads: 1, headDim: 64 }, [63, 64, 65, 0, 127]],
  [{ heads: 4, kvHeads: 2, headDim: 64 }, [129, 1, 128]],
  [{ heads: 8, kvHeads: 1, headDim: 64 }, [33, 130]],
  [{ heads: 1, kvHeads: 1, headDim: 80 }, [129, 64]],
  [{ heads: 4, kvHeads: 2, headDim: 80 }, [65, 0, 1, 128]],
  [{ heads: 2, kvHeads: 2, headDim: 100 }, [63, 64, 65, 0, 1]],
  [{ heads: 4, kvHeads: 2, headDim: 100 }, [129, 2]],
  [{ heads: 1, kvHeads: 1, headDim: 256 }, [33, 0, 129]],
  [{ heads: 4, kvHeads: 2, headDim: 256 }, [65, 1]],
  [{ heads: 1, kvHeads: 1, headDim: 96 }, [129, 64, 127]],
  [{ heads: 2, kvHeads: 1, headDim: 96 }, [65, 1, 128]],
  [{ heads: 8, kvHeads: 1, headDim: 96 }, [31, 63]],
  [{ heads: 1, kvHeads: 1, headDim: 128 }, [63, 64, 65, 257]],
  [{ heads: 4, kvHeads: 2, headDim: 128 }, [127, 0, 2, 129]],
  [{ heads: 8, kvHeads: 1, headDim: 128 }, [128, 17]],
];

const numeric: typeof cases = [
  ...cases.slice(0, 4),
  [{ heads: 2, kvHeads: 1, headDim: 3, window: 2 }, [4, 1, 3]],
  [{ heads: 1, kvHeads: 1, headDim: 4, window: 1 }, [3]],
];
for (const [shape, lengths] of numeric) {
  test(`the reference's gradients are those of its forward pass, numerically: ${JSON.stringify(shape)}`, () => {
    const few = lengths.map((length) => Math.min(length, 4));
    const random = new Random(3);
    const qkv = Float64Array.from(random.floats(tokensOf(few) * columnsOf(shape)));
    const dout = random.floats(tokensOf(few) * shape.heads * shape.headDim);
    const loss = (changed: Float64Array) =>
      referenceForward({ shape, lengths: few, qkv: changed }).o.reduce((sum, v, i) => sum + v * dout[i]!, 0);
    const dqkv = referenceBackward({ shape, lengths: few, qkv }, dout);
    expectClose(dqkv, slopes(qkv, loss, 1e-4), 1e-7, "dqkv");
  });
}

forEachBackend((device, name) => {
  const isCpu = name.startsWith("cpu ");
  for (const [shape, lengths] of tiled) {
    test(`bf16, aligned rows, ${nameOf(shape, lengths)}`, () => {
      checkBoth(device, "bf16", shape, lengths, alignedGaps);
    });
  }

  test("aligned and unaligned rows give the same results, which the CUDA backend computes by different kernels", () => {
    for (const headDim of [64, 96, 100, 128, 256]) {
      const shape = { heads: 2, kvHeads: 1, headDim };
      const lengths = headDim === 256 || headDim === 100 ? [70, 15] : [70, 140];
      const T = tokensOf(lengths);
      const random = new Random(headDim);
      const qkv = roundTo("bf16", random.floats(T * columnsOf(shape), 3));
      const dout = roundTo("bf16", random.floats(T * 2 * headDim));
      const aligned = runBoth(device, "bf16", shape, lengths, qkv, dout, alignedGaps);
      const unaligned = runBoth(device, "bf16", shape, lengths, qkv, dout);
      expectClose(aligned.o, unaligned.o, tolerance.bf16, "o");
      expectClose(aligned.lse, unaligned.lse, tolerance.f32, "lse");
      expectClose(aligned.dqkv, unaligned.dqkv, gradientTolerance.bf16, "dqkv");
    }
  });

  for (const [dtype, headDim, gaps] of [
    ["bf16", 64, alignedGaps],
    ["bf16", 80, alignedGaps],
    ["bf16", 96, alignedGaps],
    ["bf16", 128, alignedGaps],
    ["bf16", 100, [4, 12, 12, 20]], // rows aligned to 8 bytes, which these need
    ["bf16", 256, alignedGaps],
    ["bf16", 128, unalignedGaps],
    ["bf16", 34, alignedGaps],
    ["f32", 64, alignedGaps],
  ] as const) {
    test(`${dtype}, heads of ${headDim}: gradients of q and k as they were before RoPE, gaps ${gaps}`, () => {
      const shape = { heads: 4, kvHeads: 2, headDim };
      const lengths = headDim === 256 ? [70, 1, 0, 17] : [70, 1, 0, 139];
      const [T, columns, rotated] = [tokensOf(lengths), columnsOf(shape), 6];
      const random = new Random(headDim);
      const qkv = roundTo(dtype, random.floats(T * columns, 2));
      const dout = roundTo(dtype, random.floats(T * 4 * headDim));
      // In no order, as a caller may have them.
      const positions = Array.from({ length: T }, (_, t) => (t * 37) % 211);
      const tables = angles(211, headDim);
      const [cosine, sine] = [tables.cosine, tables.sine].map((table) =>
        upload(device, "f32", [211, headDim / 2], table),
      );
      const turned = {
        tables: { cosine: cosine!, sine: sine! },
        positions: uploadInts(device, positions),
      };
      const got = runBoth(device, dtype, shape, lengths, qkv, dout, gaps, turned);
      const gradient = referenceBackward({ shape, lengths, qkv }, dout);
      const wanted = turn(gradient, columns, tables, positions, rotated, headDim, -1);
      for (const [begin, end, name] of [
        [0, 4, "dq"],
        [4, 6, "dk"],
        [6, 8, "dv"],
      ] as const) {
        const of = (values: ArrayLike<number>) => part(values, columns, begin * headDim, end * headDim);
        expectClose(of(got.dqkv), of(wanted), gradientTolerance[dtype], name);
      }
      expect(runBoth(device, dtype, shape, lengths, qkv, dout, gaps, turned)).toEqual(got);
    });
  }

  for (const dtype of dtypes) {
    for (const [shape, lengths] of cases) {
      test(`${dtype}, ${nameOf(shape, lengths)}`, () => {
        checkBoth(device, dtype, shape, lengths, unalignedGaps);
      });
    }

    // Other backends have no such number.
    test.skipIf(!isCpu)(`${dtype}: the number of threads changes no bit`, () => {
      const library = loadCpuLibrary({ ...process.env, NEFTUNE_CPU_ISA: name.slice(4) });
      // One long sample among short ones: its heads are split between the threads where these are many.
      const shape = { heads: 2, kvHeads: 1, headDim: 16 };
      const lengths = [20, 400, 7, 131];
      const random = new Random(9);
      const qkv = roundTo(dtype, random.floats(tokensOf(lengths) * columnsOf(shape)));
      const dout = roundTo(dtype, random.floats(tokensOf(lengths) * 32));
      const passes = [1, 2, 5].map((threads) => {
        const other = Device.open({ threads, library });
        const pass = runBoth(other, dtype, shape, lengths, qkv, dout);
        other.close();
        return pass;
      });
      expect(passes[1]).toEqual(passes[0]!);
      expect(passes[2]).toEqual(passes[0]!);
    });

    test(`${dtype}: scores far apart, and lse not wanted`, () => {
      const shape = { heads: 1, kvHeads: 1, headDim: 4 };
      const T = 200;
      // Scores climb to 1000 and fall again: the running maximum must follow, and far keys vanish.
      const qkv = roundTo(
        dtype,
        Float32Array.from({ length: T * 12 }, (_, i) => {
          const [t, c] = [Math.floor(i / 12), i % 12];
          return c < 4 ? 5 : c < 8 ? 100 * Math.sin(t / 20) : Math.cos(t + c);
        }),
      );
      const input = upload(device, dtype, [T, 12], qkv);
      const o = poisoned(device, dtype, [T, 4]);
      attentionForward(device, o, null, input, { cuSeqlens: Int32Array.of(0, T) }, shape);
      const wanted = referenceForward({ shape, lengths: [T], qkv });
      // A score of 1000 in float32 has an error of 6e-5, which p has too.
      expectClose(device.readFloats(o), wanted.o, dtype === "f32" ? 1e-4 : tolerance.bf16, "o");
    });

    test(`${dtype}: NaN stays in its sample, head and later rows`, () => {
      const shape = { heads: 2, kvHeads: 2, headDim: 8 };
      const lengths = [70, 10];
      const qkv = roundTo(dtype, new Random(4).floats(80 * 48));
      qkv[50 * 48 + 16 + 3] = Number.NaN; // the key of head 0 at position 50
      const o = poisoned(device, dtype, [80, 16]);
      const input = upload(device, dtype, [80, 48], qkv);
      attentionForward(device, o, null, input, { cuSeqlens: bordersOf(lengths) }, shape);
      const got = device.readFloats(o);
      for (let t = 0; t < 80; t++) {
        const reached = t >= 50 && t < 70;
        expect(got.subarray(t * 16, t * 16 + 8).every(Number.isNaN), `row ${t}, head 0`).toBe(reached);
        expect(got.subarray(t * 16 + 8, t * 16 + 16).some(Number.isNaN), `row ${t}, head 1`).toBe(false);
      }
    });

    for (const [heads, kvHeads, headDim, window = 0] of [
      [2, 1, 16, 1],
      [8, 1, 16, 513],
      [4, 2, 16, 1024],
      [3, 1, 96, 5],
      [10, 1, 128, 31],
      [2, 2, 64, 64],
      [1, 1, 1],
      [6, 2, 24],
      [4, 1, 65],
      [3, 3, 128],
      [8, 1, 16],
      [2, 2, 64],
      [3, 1, 96],
      [10, 1, 128],
      [10, 2, 40],
      [3, 1, 256],
    ] as const) {
      test(`${dtype}: decoding over the cache, ${heads}/${kvHeads} heads of ${headDim}, window ${window}`, () => {
        const shape = { heads, kvHeads, headDim, window };
        const columns = columnsOf(shape);
        const lengths = [17, 3, headDim < 20 ? 1100 : 130]; // pieces hold 256 or 512 keys
        const [capacity, slots] = [1101, Int32Array.of(3, 0, 1)];
        const T = tokensOf(lengths);
        const qkv = roundTo(dtype, new Random(heads).floats(T * columns, 2));
        const cache: KvCache = {
          k: poisoned(device, dtype, [4, kvHeads, capacity, headDim]),
          v: poisoned(device, dtype, [4, kvHeads, capacity, headDim]),
          capacity,
        };
        // Each sample goes in in two parts: its first two rows, then the rest.
        const borders = bordersOf(lengths);
        for (const [from, to] of [
          [0, 2],
          [2, Infinity],
        ] as const) {
          const rows = lengths.map((length) => [Math.min(from, length), Math.min(to, length)] as const);
          const some = rows.flatMap(([a, b], s) =>
            Array.from(qkv.subarray((borders[s]! + a) * columns, (borders[s]! + b) * columns)),
          );
          const samples = { cuSeqlens: bordersOf(rows.map(([a, b]) => b - a)) };
          const starts = Int32Array.from(rows, ([a]) => a);
          kvAppend(
            device,
            cache,
            spread(device, dtype, Float32Array.from(some), columns, from === 0 ? 2 : 8), // unaligned rows, aligned ones
            samples,
            slots,
            starts,
            shape,
          );
        }
        const bytes = device.readFloats(cache.k);
        expect(bytes.filter((value) => !Number.isNaN(value)).length).toBe(T * kvHeads * headDim);

        const width = heads * headDim;
        const wanted = referenceForward({ shape, lengths, qkv });
        const last = lengths.map((_, s) => borders[s + 1]! - 1);
        const queries = Float32Array.from(
          last.flatMap((t) => Array.from(qkv.subarray(t * columns, (t + 1) * columns))),
        );
        const o = poisoned(device, dtype, [3, width + 1]).columns(0, width);
        const input = spread(device, dtype, queries, columns, 4);
        attentionDecode(device, o, input, cache, slots, Int32Array.from(lengths), shape);
        const got = gather(device, o);
        const lastRows = last.flatMap((t) => Array.from(wanted.o.subarray(t * width, (t + 1) * width)));
        expectClose(got, lastRows, tolerance[dtype], "o");
        // Alone, a sequence gets the same bits.
        for (const [s, length] of lengths.entries()) {
          const own = poisoned(device, dtype, [1, width]);
          const query = input.rows(s, 1);
          attentionDecode(device, own, query, cache, slots.slice(s, s + 1), Int32Array.of(length), shape);
          expect(device.readFloats(own)).toEqual(got.slice(s * width, (s + 1) * width));
        }
        attentionDecode(device, o, input, cache, slots, Int32Array.of(0, 1, 2), shape);
        expect(
          gather(device, o)
            .subarray(0, width)
            .every((value) => value === 0),
        ).toBe(true);
      });
    }
  }

  test("no tokens: nothing is written, nothing fails", () => {
    const shape = { heads: 2, kvHeads: 1, headDim: 4 };
    const empty = (columns: number) => device.allocate("f32", [0, columns]);
    for (const cuSeqlens of [Int32Array.of(0), Int32Array.of(0, 0, 0)]) {
      const samples = { cuSeqlens };
      const count = cuSeqlens.length - 1;
      attentionForward(device, empty(8), null, empty(16), samples, shape);
      attentionBackward(device, empty(16), empty(1), empty(8), empty(8), empty(16), empty(1), samples, shape);
      const cache = { k: empty(1), v: empty(1), capacity: 0 };
      kvAppend(device, cache, empty(16), samples, new Int32Array(count), new Int32Array(count), shape);
    }
    const cache = { k: empty(1), v: empty(1), capacity: 0 };
    attentionDecode(device, empty(8), empty(16), cache, new Int32Array(0), new Int32Array(0), shape);
  });

  test("wrong arguments are refused by name", () => {
    const x = device.allocate("f32", [4, 64]).ptr;
    const borders = Int32Array.of(0, 4);
    const forward = (changed: Record<string, unknown>) => () => {
      const a = {
        dtype: 0,
        o: x,
        ldo: 16,
        q: x,
        ld: 32,
        borders,
        sequences: 1,
        heads: 2,
        kv: 1,
        dim: 8,
        window: 0,
        scale: 1,
        ...changed,
      };
      device.call(
        "nt_attention_forward",
        a.dtype,
        a.o,
        a.ldo,
        null,
        a.q,
        x,
        x,
        a.ld,
        a.borders,
        a.sequences,
        a.heads,
        a.kv,
        a.dim,
        a.window,
        a.scale,
      );
    };
    const refused: [Record<string, unknown>, RegExp][] = [
      [{ dtype: 2 }, /dtype must be f32 or bf16, got 2/],
      [{ heads: 3, kv: 2 }, /heads must be a multiple of kv_heads, both > 0, got 3 and 2/],
      [{ kv: 0 }, /got 2 and 0/],
      [{ dim: 257 }, /head_dim must be between 1 and 256, got 257/],
      [{ ld: 15 }, /ldqkv and ldo must be at least heads · head_dim = 16, got 15 and 16/],
      [{ ldo: 15 }, /got 32 and 15/],
      [{ borders: Int32Array.of(1, 4) }, /cu_seqlens must start with 0/],
      [{ borders: Int32Array.of(0, 4, 3), sequences: 2 }, /cu_seqlens must not fall, got 3 after 4/],
      [{ sequences: -1 }, /sequences must be ≥ 0, got -1/],
      [{ window: -1 }, /window must be ≥ 0, got -1/],
      [{ borders: Int32Array.of(0, 2 ** 30) }, /fewer than 2\^30 tokens, got 1073741824/],
      [{ scale: 0 }, /scale must be finite and > 0, got 0/],
      [{ scale: Number.NaN }, /scale must be finite/],
      [{ q: null }, /o, q, k and v must not be null/],
    ];
    for (const [changed, message] of refused) {
      expect(forward(changed)).toThrow(NativeError);
      expect(forward(changed)).toThrow(message);
    }
    const backward =
      (delta: number | null, ldd: number, positions: number | null = null) =>
      () =>
        device.call(
          "nt_attention_backward",
          0,
          x,
          x,
          x,
          ldd,
          delta,
          x,
          x,
          16,
          x,
          x,
          x,
          32,
          x,
          borders,
          1,
          2,
          1,
          8,
          0,
          1,
          null,
          null,
          positions,
        );
    expect(backward(null, 32)).toThrow(/attention_backward: no pointer may be null/);
    expect(backward(x, 15)).toThrow(/must be at least heads · head_dim = 16, got 32, 15 and 16/);
    expect(backward(x, 32, x)).toThrow(/attention_backward: x, cosine, sine and positions must not be null/);
    const append = (slot: number, start: number) => () =>
      device.call(
        "nt_kv_append",
        0,
        x,
        x,
        x,
        x,
        32,
        borders,
        Int32Array.of(slot),
        Int32Array.of(start),
        1,
        6,
        1,
        8,
      );
    expect(append(0, 3)).toThrow(/sample 0 must fit its slot of 6 positions, got slot 0, positions 3 … 7/);
    expect(append(-1, 0)).toThrow(/got slot -1/);
    const decode =
      (length: number, window = 0) =>
      () =>
        device.call(
          "nt_attention_decode",
          0,
          x,
          16,
          x,
          32,
          x,
          x,
          Int32Array.of(0),
          Int32Array.of(length),
          1,
          6,
          2,
          1,
          8,
          window,
          1,
        );
    expect(decode(3, -1)).toThrow(/attention_decode: window must be ≥ 0, got -1/);
    expect(decode(7)).toThrow(
      /lengths must be between 0 and the capacity 6, slots ≥ 0, got length 7 of slot 0/,
    );
  });
});
