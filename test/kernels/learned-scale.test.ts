// A learned noise scale: e + (scale · s) ∘ n, and the gradient of s.

import { expect, test } from "bun:test";
import {
  type Device,
  type EmbeddingNoise,
  embeddingForward,
  learnedScaleBackward,
  NativeError,
  type Tensor,
} from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload, uploadInts } from "./harness.ts";
import { expectClose, Random, roundTo, slopes, tolerance } from "./numbers.ts";
import { noiseRow } from "./philox-reference.ts";

const dtypes = ["f32", "bf16"] as const;
const kinds = ["uniform", "bernoulli", "gaussian"] as const;

// The second sample is empty; draws need more than 32 bits.
const cuSeqlens = Int32Array.of(0, 4, 4, 9);
const T = 9;
const noiseOf = (kind: EmbeddingNoise["kind"]): EmbeddingNoise => ({
  kind,
  seed: 2 ** 52 + 9,
  scales: Float32Array.of(0.7, 0.1, 0.02),
  draws: BigInt64Array.of(2n ** 48n - 1n, 1n, 0x1234_8765_4321n),
});

/** The noise of each token, float32 [T, width], and its scale. */
function drawn(noise: EmbeddingNoise, borders: Int32Array, width: number) {
  const rows: { n: Float32Array; scale: number }[] = [];
  for (let s = 0; s + 1 < borders.length; s++)
    for (let t = borders[s]!; t < borders[s + 1]!; t++) {
      const n = noiseRow(noise.kind, noise.seed, noise.draws[s]!, t - borders[s]!, width);
      rows.push({ n: Float32Array.from(n), scale: noise.scales[s]! });
    }
  return rows;
}

function forward(
  device: Device,
  dtype: "f32" | "bf16",
  table: Tensor,
  ids: number[],
  noise: EmbeddingNoise,
  borders = cuSeqlens,
) {
  const y = poisoned(device, dtype, [ids.length, table.columnCount]);
  embeddingForward(device, y, table, uploadInts(device, ids), { cuSeqlens: borders }, noise);
  return device.readFloats(y);
}

forEachBackend((device) => {
  for (const width of [1, 3, 17, 40, 65, 129, 2056]) {
    for (const dtype of dtypes) {
      test(`forward, H = ${width}, ${dtype}`, () => {
        const random = new Random(width);
        const V = 5;
        const values = roundTo(dtype, random.floats(V * width));
        const table = upload(device, dtype, [V, width], values);
        const ids = Array.from({ length: T }, () => random.integer(V));
        const s = random.floats(width, 1.5);
        for (const kind of kinds) {
          const noise = noiseOf(kind);
          const want = new Float32Array(T * width);
          for (const [t, { n, scale }] of drawn(noise, cuSeqlens, width).entries())
            for (let j = 0; j < width; j++)
              // Products of two float32 are exact in float64: the sum is rounded once, as by an fma.
              want[t * width + j] = values[ids[t]! * width + j]! + Math.fround(scale * s[j]!) * n[j]!;
          const learnedScale = upload(device, "f32", [width], s);
          const got = forward(device, dtype, table, ids, { ...noise, learnedScale });
          if (kind === "gaussian") expectClose(got, want, tolerance[dtype], kind);
          else expect(got, kind).toEqual(roundTo(dtype, want));

          const ones = upload(device, "f32", [width], new Float32Array(width).fill(1));
          const plain = forward(device, dtype, table, ids, noise);
          expect(forward(device, dtype, table, ids, { ...noise, learnedScale: ones })).toEqual(plain);
        }
      });

      test(`backward, H = ${width}, ${dtype}`, () => {
        const random = new Random(width + 1);
        const dy = roundTo(dtype, random.floats(T * width));
        const start = random.floats(width);
        for (const kind of kinds) {
          const noise = noiseOf(kind);
          const want = Float64Array.from(start);
          for (const [t, { n, scale }] of drawn(noise, cuSeqlens, width).entries())
            for (let j = 0; j < width; j++) want[j]! += Math.fround(scale * n[j]!) * dy[t * width + j]!;
          const gradient = upload(device, "f32", [width], start);
          const input = upload(device, dtype, [T, width], dy);
          learnedScaleBackward(device, gradient, input, { cuSeqlens }, noise);
          expectClose(device.readFloats(gradient), want, kind === "gaussian" ? 3e-6 : 5e-7, kind);
        }
      });
    }
  }

  test("many tokens, shared by threads and blocks; the same bits run to run", () => {
    const [H, tokens] = [72, 700];
    const borders = Int32Array.of(0, 301, 400, tokens);
    const random = new Random(3);
    const dy = random.floats(tokens * H);
    const input = upload(device, "f32", [tokens, H], dy);
    const noise = noiseOf("uniform");
    const run = () => {
      const gradient = upload(device, "f32", [H], new Float32Array(H));
      learnedScaleBackward(device, gradient, input, { cuSeqlens: borders }, noise);
      return device.readFloats(gradient);
    };
    const want = new Float64Array(H);
    for (const [t, { n, scale }] of drawn(noise, borders, H).entries())
      for (let j = 0; j < H; j++) want[j]! += scale * n[j]! * dy[t * H + j]!;
    const first = run();
    expectClose(first, want, 2e-6);
    expect(run()).toEqual(first);
  });

  test("backward is the gradient of forward", () => {
    const [V, H] = [4, 6];
    const random = new Random(5);
    const table = upload(device, "f32", [V, H], new Float32Array(V * H));
    const ids = [0, 3, 3, 1, 0, 3, 2, 2, 1];
    const [s, weights] = [random.floats(H), random.floats(T * H)];
    for (const kind of kinds) {
      const loss = (values: Float32Array) => {
        const noise = { ...noiseOf(kind), learnedScale: upload(device, "f32", [H], values) };
        return forward(device, "f32", table, ids, noise).reduce((sum, y, i) => sum + y * weights[i]!, 0);
      };
      const gradient = upload(device, "f32", [H], new Float32Array(H));
      const dy = upload(device, "f32", [T, H], weights);
      learnedScaleBackward(device, gradient, dy, { cuSeqlens }, noiseOf(kind));
      expectClose(device.readFloats(gradient), slopes(s, loss, 0.5), 1e-5, kind);
    }
  });

  test("zero sizes write nothing; bad arguments are refused", () => {
    const gradient = poisoned(device, "f32", [3]);
    const dy = upload(device, "f32", [2, 3], new Float32Array(6));
    const none = {
      kind: "uniform",
      seed: 0,
      scales: new Float32Array(0),
      draws: new BigInt64Array(0),
    } as const;
    learnedScaleBackward(device, gradient, dy.rows(0, 0), { cuSeqlens: Int32Array.of(0) }, none);
    expect(device.readFloats(gradient).every(Number.isNaN)).toBe(true);
    const few = () => learnedScaleBackward(device, gradient, dy, { cuSeqlens: Int32Array.of(0, 2) }, none);
    expect(few).toThrow("learned_scale_backward: 1 samples need as many scales and draws");
    const call = (change: Record<string, unknown>) => () => {
      const a = { dtype: 0, ds: gradient.ptr, noise: 1, borders: Int32Array.of(0, 2), ...change };
      const samples = [a.borders, Float32Array.of(1), BigInt64Array.of(0n), 1] as const;
      device.call("nt_learned_scale_backward", a.dtype, a.ds, dy.ptr, 3, 2, 3, a.noise, 0, ...samples);
    };
    const refused: [Record<string, unknown>, string][] = [
      [{ dtype: 2 }, "learned_scale_backward: dtype must be f32 or bf16, got 2"],
      [{ noise: 0 }, "learned_scale_backward: unknown noise 0"],
      [{ noise: 4 }, "unknown noise 4"],
      [{ ds: null }, "no pointer may be null"],
      [{ borders: Int32Array.of(0, 1) }, "cu_seqlens must go from 0 to T = 2"],
    ];
    for (const [change, message] of refused) {
      expect(call(change)).toThrow(NativeError);
      expect(call(change)).toThrow(message);
    }
  });
});
