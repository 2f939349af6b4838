import { expect, test } from "bun:test";
import { dropout } from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { expectClose, Random, roundTo } from "./numbers.ts";
import { block, drawWords } from "./philox-reference.ts";

interface Options {
  p: number;
  seed: number;
  module: number;
  draws: BigInt64Array;
}

/** scale where kept, 0 where dropped: [T, columns]. */
function mask(borders: Int32Array, columns: number, { p, seed, module, draws }: Options): number[] {
  const [threshold, scale] = [Math.fround(p) * 2 ** 24, Math.fround(1 / (1 - Math.fround(p)))];
  const values: number[] = [];
  for (const [s, draw] of draws.entries()) {
    const [low, high] = drawWords(draw);
    for (let position = 0; position < borders[s + 1]! - borders[s]!; position++) {
      for (let j = 0; j < columns; j++) {
        const counter = [((module << 16) | (j >> 2)) >>> 0, position, low, ((1 << 16) | high) >>> 0] as const;
        values.push(block(seed, counter)[j & 3]! >>> 8 >= threshold ? scale : 0);
      }
    }
  }
  return values;
}

forEachBackend((device) => {
  for (const dtype of ["f32", "bf16"] as const) {
    for (const columns of [1, 3, 17, 40, 65, 129]) {
      test(`${dtype}, ${columns} columns`, () => {
        const T = 7;
        const random = new Random(columns);
        const x = roundTo(dtype, random.floats(T * columns));
        const old = roundTo(dtype, random.floats(T * columns));
        const cuSeqlens = Int32Array.of(0, 2, 2, T);
        const draws = BigInt64Array.of(4n, 5n, 2n ** 47n + 3n);
        const options = { p: 0.3, seed: 2 ** 51 + 1, module: 65535, draws };
        const m = mask(cuSeqlens, columns, options);
        const product = Float32Array.from(x, (value, i) => m[i]! * value);
        const input = upload(device, dtype, [T, columns], x);

        const y = poisoned(device, dtype, [T, columns]);
        dropout(device, y, input, { cuSeqlens }, options);
        expect(device.readFloats(y)).toEqual(roundTo(dtype, product));

        const sum = upload(device, dtype, [T, columns], old);
        dropout(device, sum, input, { cuSeqlens }, options, true);
        const want = roundTo(
          dtype,
          Float32Array.from(x, (value, i) => m[i]! * value + old[i]!),
        );
        expect(device.readFloats(sum)).toEqual(want);

        dropout(device, input, input, { cuSeqlens }, options);
        expect(device.readFloats(input), "in place").toEqual(roundTo(dtype, product));
      });
    }
  }

  test("many tokens, shared by threads: the share kept, and the mask of each token alone", () => {
    const [T, columns, p] = [500, 130, 0.25];
    const x = upload(device, "f32", [T, columns], new Float32Array(T * columns).fill(1));
    const y = poisoned(device, "f32", [T, columns]);
    const options = { p, seed: 1, module: 2, draws: BigInt64Array.of(3n) };
    dropout(device, y, x, { cuSeqlens: Int32Array.of(0, T) }, options);
    const got = device.readFloats(y);
    expect(Array.from(got)).toEqual(mask(Int32Array.of(0, T), columns, options).map(Math.fround));
    const kept = got.reduce((sum, value) => sum + (value > 0 ? 1 : 0), 0) / got.length;
    expect(Math.abs(kept - (1 - p))).toBeLessThan(0.01);
  });

  test("p = 0 keeps everything; the gradient is the same mask", () => {
    const [T, columns] = [3, 21];
    const values = new Random(4).floats(T * columns);
    const x = upload(device, "f32", [T, columns], values);
    const y = poisoned(device, "f32", [T, columns]);
    const samples = { cuSeqlens: Int32Array.of(0, T) };
    const options = { p: 0, seed: 9, module: 0, draws: BigInt64Array.of(0n) };
    dropout(device, y, x, samples, options);
    expect(device.readFloats(y)).toEqual(values);
    // ⟨dropout(x), v⟩ = ⟨x, dropout(v)⟩: the map is its own transpose.
    const other = new Random(5).floats(T * columns);
    const v = upload(device, "f32", [T, columns], other);
    dropout(device, x, x, samples, { ...options, p: 0.5 });
    dropout(device, v, v, samples, { ...options, p: 0.5 });
    const [a, b] = [device.readFloats(x), device.readFloats(v)];
    const left = a.reduce((sum, value, i) => sum + value * other[i]!, 0);
    const right = b.reduce((sum, value, i) => sum + value * values[i]!, 0);
    expectClose([left], [right], 1e-6);
  });

  test("what is dropped does not pass, not even infinity; zero sizes and bad arguments", () => {
    const x = upload(device, "f32", [1, 64], new Float32Array(64).fill(Number.POSITIVE_INFINITY));
    const y = poisoned(device, "f32", [1, 64]);
    const samples = { cuSeqlens: Int32Array.of(0, 1) };
    const options = { p: 0.5, seed: 1, module: 0, draws: BigInt64Array.of(0n) };
    dropout(device, y, x, samples, options);
    expect(new Set(device.readFloats(y))).toEqual(new Set([0, Number.POSITIVE_INFINITY]));
    const none = poisoned(device, "f32", [1, 64]);
    dropout(device, none.rows(0, 0), none.rows(0, 0), { cuSeqlens: Int32Array.of(0, 0) }, options);
    expect(device.readFloats(none).every(Number.isNaN)).toBe(true);
    const attempt = (change: Partial<Options>) => () =>
      dropout(device, y, x, samples, { ...options, ...change });
    expect(attempt({ p: 1 })).toThrow("dropout: p must be in [0, 1), got 1");
    expect(attempt({ p: -0.1 })).toThrow("dropout: p must be in [0, 1)");
    expect(attempt({ module: 65536 })).toThrow("dropout: module must be in [0, 65536), got 65536");
    expect(attempt({ draws: BigInt64Array.of(-1n) })).toThrow("draws must be in [0, 2^48), got -1");
    const wide = () =>
      device.call(
        "nt_dropout",
        0,
        y.ptr,
        262145,
        x.ptr,
        262145,
        1,
        262145,
        0.5,
        1,
        0,
        0,
        samples.cuSeqlens,
        options.draws,
        1,
      );
    expect(wide).toThrow("dropout: columns must be in [0, 262144], got 262145");
  });
});
