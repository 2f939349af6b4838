import { expect, test } from "bun:test";
import { type Device, dtypeCode, NativeError, type Tensor } from "../../src/native/index.ts";
import golden from "../golden/noise.json";
import { forEachBackend, poisoned, upload, uploadInts } from "./harness.ts";
import { expectClose, Random, roundTo, tolerance } from "./numbers.ts";
import { type NoiseKind, noiseCodes, noiseRow } from "./philox-reference.ts";

type Activation = "f32" | "bf16";
const activations = ["f32", "bf16"] as const;
const kinds = ["uniform", "bernoulli", "gaussian"] as const;

interface Samples {
  borders: number[];
  scales: number[];
  draws: bigint[];
}

function forward(
  device: Device,
  y: Tensor,
  table: Tensor,
  ids: Tensor,
  kind: NoiseKind | "none",
  seed: number,
  samples: Samples | null,
): void {
  device.call(
    "nt_embedding_forward",
    dtypeCode[y.dtype as Activation],
    y.ptr,
    table.ptr,
    dtypeCode[table.dtype as Activation],
    ids.ptr,
    y.rowCount,
    y.columnCount,
    table.rowCount,
    noiseCodes[kind],
    seed,
    samples === null ? null : Int32Array.from(samples.borders),
    samples === null ? null : Float32Array.from(samples.scales),
    samples === null ? null : BigInt64Array.from(samples.draws),
    samples === null ? 0 : samples.draws.length,
    null,
  );
}

/** Noise alone: scale 1 on a table of zeros, the last of `position` + 1 tokens. */
function noiseOf(
  device: Device,
  kind: NoiseKind,
  seed: number,
  draw: number,
  position: number,
  width: number,
) {
  const table = upload(device, "f32", [1, width], new Float32Array(width));
  const ids = uploadInts(device, new Int32Array(position + 1));
  const y = poisoned(device, "f32", [position + 1, width]);
  const samples = { borders: [0, position + 1], scales: [1], draws: [BigInt(draw)] };
  forward(device, y, table, ids, kind, seed, samples);
  return device.readFloats(y).subarray(position * width);
}

forEachBackend((device) => {
  for (const kind of kinds) {
    test(`${kind} noise is the reference's`, () => {
      const cases = [
        ...golden.values[kind].map(({ seed, draw, t, first16 }) => ({ seed, draw, t, n: first16 })),
        ...golden.vectors[kind],
      ];
      expect(cases.length).toBe(11);
      for (const { seed, draw, t, n } of cases) {
        const got = noiseOf(device, kind, seed, draw, t, n.length);
        if (kind === "gaussian") {
          for (const [j, value] of n.entries()) expect(Math.abs(got[j]! - value)).toBeLessThanOrEqual(2e-6);
        } else {
          expect(got).toEqual(Float32Array.from(n));
        }
      }
    });
  }

  test("gaussian noise stays within 2e-6 of float64 over many values", () => {
    const width = 40000;
    const got = noiseOf(device, "gaussian", 7, 3, 1, width);
    const want = noiseRow("gaussian", 7, 3n, 1, width);
    let worst = 0;
    for (const [j, value] of want.entries()) worst = Math.max(worst, Math.abs(got[j]! - value));
    expect(worst).toBeLessThanOrEqual(2e-6);
    expect(Math.max(...got)).toBeGreaterThan(3.5);
  });

  test("e + scale · n is one fused multiply-add, bit for bit the reference's", () => {
    for (const { alpha, L, d, seed, draw, t, e, e_noised } of golden.sum) {
      const table = upload(device, "f32", [1, d], Float32Array.from(e));
      const y = poisoned(device, "f32", [L, d]);
      const samples = { borders: [0, L], scales: [alpha / Math.sqrt(L * d)], draws: [BigInt(draw)] };
      forward(device, y, table, uploadInts(device, new Int32Array(L)), "uniform", seed, samples);
      const row = device.readFloats(y).slice(t * d, (t + 1) * d);
      expect(row).toEqual(Float32Array.from(e_noised));
    }
  });

  for (const width of [1, 3, 17, 40, 65, 129, 2056]) {
    for (const dtype of activations) {
      for (const tableType of activations) {
        test(`packed samples, H = ${width}, ${tableType} table to ${dtype}`, () => {
          const random = new Random(width);
          const [V, T] = [5, 9];
          const values = roundTo(tableType, random.floats(V * width));
          const table = upload(device, tableType, [V, width], values);
          const ids = Array.from({ length: T }, () => random.integer(V));
          // The second sample is empty; draws need more than 32 bits.
          const samples = {
            borders: [0, 4, 4, T],
            scales: [0.7, 0.1, 0.02].map(Math.fround),
            draws: [2n ** 48n - 1n, 1n, 0x1234_8765_4321n],
          };
          for (const kind of kinds) {
            const y = poisoned(device, dtype, [T, width]);
            forward(device, y, table, uploadInts(device, ids), kind, 2 ** 52 + 9, samples);
            const want = new Float32Array(T * width);
            for (let t = 0; t < T; t++) {
              const s = t < 4 ? 0 : 2;
              const n = noiseRow(kind, 2 ** 52 + 9, samples.draws[s]!, t - samples.borders[s]!, width);
              for (let j = 0; j < width; j++)
                want[t * width + j] = values[ids[t]! * width + j]! + samples.scales[s]! * n[j]!;
            }
            const got = device.readFloats(y);
            if (kind === "gaussian") expectClose(got, want, tolerance[dtype], kind);
            else expect(got, kind).toEqual(roundTo(dtype, want));
          }
          const plain = poisoned(device, dtype, [T, width]);
          forward(device, plain, table, uploadInts(device, ids), "none", 0, null);
          const rows = ids.flatMap((id) => Array.from(values.subarray(id * width, (id + 1) * width)));
          expect(device.readFloats(plain)).toEqual(roundTo(dtype, Float32Array.from(rows)));
        });
      }
    }
  }

  test("noise does not depend on how samples share micro-batches", () => {
    const [V, H] = [7, 37];
    const table = upload(device, "bf16", [V, H], roundTo("bf16", new Random(1).floats(V * H)));
    const ids = uploadInts(device, [1, 2, 3, 4, 5, 6, 0]);
    const together = poisoned(device, "bf16", [7, H]);
    const scales = [0.5, 0.25];
    forward(device, together, table, ids, "uniform", 3, { borders: [0, 3, 7], scales, draws: [8n, 9n] });
    const apart = poisoned(device, "bf16", [7, H]);
    for (const [s, begin, count] of [
      [0, 0, 3],
      [1, 3, 4],
    ] as const) {
      const samples = { borders: [0, count], scales: [scales[s]!], draws: [8n + BigInt(s)] };
      forward(device, apart.rows(begin, count), table, ids.rows(begin, count), "uniform", 3, samples);
    }
    expect(device.readBytes(together)).toEqual(device.readBytes(apart));
  });

  test("noise of many tokens, shared by threads, is that of each sample's prefixes", () => {
    const [V, H, T] = [11, 65, 600];
    const random = new Random(2);
    const table = upload(device, "f32", [V, H], random.floats(V * H));
    const ids = uploadInts(
      device,
      Array.from({ length: T }, () => random.integer(V)),
    );
    const borders = [0, 100, 350, T];
    const samples = { borders, scales: [0.1, 0.2, 0.3], draws: [5n, 6n, 7n] };
    const together = poisoned(device, "f32", [T, H]);
    forward(device, together, table, ids, "gaussian", 3, samples);
    const want = poisoned(device, "f32", [T, H]);
    for (let s = 0; s < 3; s++) {
      // Each prefix of the sample gives 50 more of its tokens.
      for (let end = borders[s]! + 50; end <= borders[s + 1]!; end += 50) {
        const count = end - borders[s]!;
        const part = poisoned(device, "f32", [count, H]);
        const alone = { borders: [0, count], scales: [samples.scales[s]!], draws: [samples.draws[s]!] };
        forward(device, part, table, ids.rows(borders[s]!, count), "gaussian", 3, alone);
        device.call("nt_copy", want.rows(end - 50, 50).ptr, part.rows(count - 50, 50).ptr, 50 * H * 4);
      }
    }
    expect(device.readBytes(together)).toEqual(device.readBytes(want));
  });

  for (const dtype of activations) {
    test(`backward adds rows in token order, ${dtype}`, () => {
      for (const width of [1, 3, 17, 65, 129, 1000, 2056]) {
        const random = new Random(width);
        const [V, T] = [6, 40];
        const ids = Array.from({ length: T }, () => random.integer(V - 1));
        const dy = roundTo(dtype, random.floats(T * width));
        const start = random.floats(V * width);
        const want = Float32Array.from(start);
        for (const [t, id] of ids.entries())
          for (let j = 0; j < width; j++) want[id * width + j] = want[id * width + j]! + dy[t * width + j]!;
        const dtable = upload(device, "f32", [V, width], start);
        const code = dtypeCode[dtype];
        const gradient = upload(device, dtype, [T, width], dy);
        device.call(
          "nt_embedding_backward",
          code,
          dtable.ptr,
          gradient.ptr,
          uploadInts(device, ids).ptr,
          T,
          width,
          V,
        );
        expect(device.readFloats(dtable)).toEqual(want);
      }
    });
  }

  // The CUDA backend keeps host tables that come again in a ring of 16 MiB on the device: each call finds two of the three
  // there and brings a new one, of half a ring's segment, which must not be written over the others.
  test("tables of earlier calls stay as they are while new ones come", () => {
    const [T, sequences] = [4, 2 ** 18];
    const table = upload(device, "f32", [1, 4], new Float32Array(4));
    const ids = uploadInts(device, new Int32Array(T));
    const borders = new Int32Array(sequences + 1);
    borders[sequences] = T;
    const scales = new Float32Array(sequences).fill(1);
    const draws = new BigInt64Array(sequences);
    const y = poisoned(device, "f32", [T, 4]);
    let first: Float32Array<ArrayBuffer> | null = null;
    for (let call = 0; call < 40; call++) {
      scales[0] = call; // of a sample without tokens
      const arguments_ = [T, 4, 1, noiseCodes.uniform, 9, borders, scales, draws, sequences, null] as const;
      device.call("nt_embedding_forward", 0, y.ptr, table.ptr, 0, ids.ptr, ...arguments_);
      first ??= device.readFloats(y);
      expect(device.readFloats(y), `call ${call}`).toEqual(first);
    }
  });

  test("backward is the gradient of forward", () => {
    const [V, H, T] = [4, 5, 6];
    const random = new Random(5);
    const ids = uploadInts(device, [0, 3, 3, 1, 0, 3]);
    const values = random.floats(V * H);
    const weights = random.floats(T * H);
    const samples = { borders: [0, T], scales: [0.3], draws: [1n] };
    const loss = (table: Float32Array) => {
      const y = poisoned(device, "f32", [T, H]);
      forward(device, y, upload(device, "f32", [V, H], table), ids, "uniform", 1, samples);
      return device.readFloats(y).reduce((sum, value, i) => sum + value * weights[i]!, 0);
    };
    const dtable = upload(device, "f32", [V, H], new Float32Array(V * H));
    const dy = upload(device, "f32", [T, H], weights);
    device.call("nt_embedding_backward", 0, dtable.ptr, dy.ptr, ids.ptr, T, H, V);
    const numeric = Array.from(values, (_, i) => {
      const [up, down] = [Float32Array.from(values), Float32Array.from(values)];
      up[i] = up[i]! + 0.5;
      down[i] = down[i]! - 0.5;
      return loss(up) - loss(down);
    });
    expectClose(device.readFloats(dtable), numeric, 1e-5, "dtable");
  });

  test("zero sizes write nothing; bad arguments are refused with what came", () => {
    const table = upload(device, "f32", [2, 3], new Float32Array(6));
    const ids = uploadInts(device, [0, 1]);
    const y = poisoned(device, "f32", [2, 3]);
    forward(device, y.rows(0, 0), table, ids, "uniform", 0, null);
    device.call("nt_embedding_backward", 0, table.ptr, y.ptr, ids.ptr, 0, 3, 2);
    expect(device.readFloats(table)).toEqual(new Float32Array(6));
    const samples = { borders: [0, 2], scales: [1], draws: [0n] };
    const attempt = (change: Partial<Samples>) => () =>
      forward(device, y, table, ids, "uniform", 0, { ...samples, ...change });
    const strange = (values: number[]) => () =>
      forward(device, y, table, uploadInts(device, values), "none", 0, null);
    if (device.isHost) {
      expect(strange([0, 2])).toThrow("embedding_forward: ids must be in [0, 2), got 2 at token 1");
      expect(strange([-1, 0])).toThrow(NativeError);
    } else {
      // Nobody sees the ids of a device before the kernel does: such a token's row is NaN, and its gradient is left out.
      for (const [values, missing] of [
        [[0, 2], 1],
        [[-1, 0], 0],
      ] as const) {
        strange([...values])();
        for (const row of [0, 1])
          expect(device.readFloats(y.rows(row, 1)).every(Number.isNaN)).toBe(row === missing);
      }
      device.call("nt_embedding_backward", 0, table.ptr, y.ptr, uploadInts(device, [-1, 1]).ptr, 2, 3, 2);
      expect(device.readFloats(table)).toEqual(new Float32Array(6));
      device.fill(y, 0xff);
    }
    expect(() => forward(device, y, table, ids, "uniform", 0, null)).toThrow(
      "needs cu_seqlens, scales and draws",
    );
    expect(attempt({ borders: [0, 1] })).toThrow("cu_seqlens must go from 0 to T = 2");
    expect(attempt({ borders: [0, 3, 2], scales: [1, 1], draws: [0n, 0n] })).toThrow(
      "cu_seqlens must not fall",
    );
    expect(attempt({ draws: [2n ** 48n] })).toThrow("draws must be in [0, 2^48)");
    const refused = () => device.call("nt_embedding_backward", 2, table.ptr, y.ptr, ids.ptr, 2, 3, 2);
    expect(refused).toThrow("dtype must be f32 or bf16, got 2");
    expect(device.readFloats(y).every(Number.isNaN)).toBe(true);
  });
});
