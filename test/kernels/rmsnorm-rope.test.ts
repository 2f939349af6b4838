// The norm of each head with RoPE behind it, against float64.

import { expect, test } from "bun:test";
import {
  type Device,
  dtypeBytes,
  NativeError,
  rmsnormRopeBackward,
  rmsnormRopeForward,
  rope,
  Tensor,
} from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload, uploadInts } from "./harness.ts";
import { expectClose, Random, roundTo, slopes, tolerance } from "./numbers.ts";
import { angles, turn } from "./rope-reference.ts";

const dtypes = ["f32", "bf16"] as const;
/** Large, so that heads of two columns still have a gradient. */
const eps = 0.1;

interface Heads {
  T: number;
  heads: number;
  headDim: number;
  positions: readonly number[];
}

const rstdOf = (head: ArrayLike<number>) =>
  1 / Math.sqrt(Array.from(head).reduce((sum, v) => sum + v * v, 0) / head.length + eps);

const headAt = (x: ArrayLike<number>, r: number, headDim: number) =>
  Array.from({ length: headDim }, (_, i) => x[r * headDim + i]!);

function forward(x: ArrayLike<number>, weight: ArrayLike<number>, at: Heads): Float64Array {
  const { T, heads, headDim } = at;
  const n = new Float64Array(T * heads * headDim);
  for (let r = 0; r < T * heads; r++) {
    const head = headAt(x, r, headDim);
    const rstd = rstdOf(head);
    for (const [i, v] of head.entries()) n[r * headDim + i] = v * rstd * weight[i]!;
  }
  return turn(n, heads * headDim, angles(200, headDim), at.positions, heads, headDim, 1);
}

function backward(dy: ArrayLike<number>, x: ArrayLike<number>, weight: ArrayLike<number>, at: Heads) {
  const { T, heads, headDim } = at;
  const g = turn(dy, heads * headDim, angles(200, headDim), at.positions, heads, headDim, -1);
  const dx = new Float64Array(T * heads * headDim);
  const dweight = new Float64Array(headDim);
  for (let r = 0; r < T * heads; r++) {
    const begin = r * headDim;
    const head = headAt(x, r, headDim);
    const rstd = rstdOf(head);
    const dot = head.reduce((sum, v, i) => sum + g[begin + i]! * weight[i]! * v, 0);
    for (const [i, v] of head.entries()) {
      dx[begin + i] = rstd * (g[begin + i]! * weight[i]! - (v * dot * rstd ** 2) / headDim);
      dweight[i]! += g[begin + i]! * v * rstd;
    }
  }
  return { dx, dweight };
}

function inputs(T: number, heads: number, headDim: number) {
  const random = new Random(T * 1000 + headDim);
  const positions = Array.from({ length: T }, () => random.integer(200));
  const at: Heads = { T, heads, headDim, positions };
  const size = T * heads * headDim;
  return { at, x: random.floats(size, 2), dy: random.floats(size), weight: random.floats(headDim) };
}

function onDevice(device: Device, at: Heads, weight: Float32Array) {
  const tables = angles(200, at.headDim);
  const shape = [200, at.headDim / 2];
  return [
    { weight: upload(device, "f32", [at.headDim], weight), eps },
    { cosine: upload(device, "f32", shape, tables.cosine), sine: upload(device, "f32", shape, tables.sine) },
    uploadInts(device, at.positions),
  ] as const;
}

/** `values` [T, columns] as the middle of wider rows: `before` columns of NaN, the window, `behind` columns of NaN. */
function window(
  device: Device,
  dtype: "f32" | "bf16",
  values: Float32Array | null,
  columns: number,
  T: number,
  [before, behind]: readonly [number, number],
): Tensor {
  const wide = before + columns + behind;
  const all = new Float32Array(T * wide).fill(Number.NaN);
  if (values !== null)
    for (let t = 0; t < T; t++) all.set(values.subarray(t * columns, (t + 1) * columns), t * wide + before);
  return upload(device, dtype, [T, wide], all).columns(before, columns);
}

/** A window's values, and what lies around it. */
function parts(
  device: Device,
  tensor: Tensor,
  before: number,
): { inside: Float32Array; around: Float32Array } {
  const [wide, columns] = [tensor.rowStride, tensor.columnCount];
  const start = tensor.ptr - before * dtypeBytes[tensor.dtype];
  const all = device.readFloats(new Tensor(start, tensor.dtype, [tensor.rowCount, wide]));
  const isInside = (i: number) => i % wide >= before && i % wide < before + columns;
  return {
    inside: all.filter((_, i) => isInside(i)),
    around: all.filter((_, i) => !isInside(i)),
  };
}

test("the reference's gradients are those of its forward", () => {
  const { at, x, dy, weight } = inputs(2, 3, 6);
  const loss = (a: ArrayLike<number>, w: ArrayLike<number>) =>
    forward(a, w, at).reduce((sum, y, i) => sum + y * dy[i]!, 0);
  const { dx, dweight } = backward(dy, x, weight, at);
  const byX = slopes(Float64Array.from(x), (changed) => loss(changed, weight), 1e-5);
  const byWeight = slopes(Float64Array.from(weight), (changed) => loss(x, changed), 1e-5);
  expectClose(dx, byX, 1e-8, "dx");
  expectClose(dweight, byWeight, 1e-8, "dweight");
});

forEachBackend((device) => {
  for (const dtype of dtypes) {
    for (const [T, heads, headDim] of [
      [1, 1, 2],
      [3, 5, 6],
      [17, 3, 34],
      [7, 4, 48],
      [5, 2, 64],
      [300, 3, 64],
      [9, 16, 80],
      [33, 8, 128],
      [3, 2, 256],
      [4, 3, 254],
    ] as const) {
      test(`${dtype}, ${heads} heads of ${headDim}, ${T} tokens`, () => {
        const { at, weight, ...raw } = inputs(T, heads, headDim);
        const [x, dy] = [roundTo(dtype, raw.x), roundTo(dtype, raw.dy)];
        const rest = onDevice(device, at, weight);
        const columns = heads * headDim;
        const want = { y: forward(x, weight, at), ...backward(dy, x, weight, at) };
        // Aligned rows, which the CUDA backend reads 16 bytes at a time, and unaligned ones.
        for (const gap of [
          [16, 8],
          [1, 2],
        ] as const) {
          const place = (values: Float32Array | null) => window(device, dtype, values, columns, T, gap);
          const valuesOf = (tensor: Tensor) => {
            const { inside, around } = parts(device, tensor, gap[0]);
            expect(around.every(Number.isNaN), "written outside the heads").toBe(true);
            return inside;
          };
          const [y, kept] = [place(x), place(null)];
          rmsnormRopeForward(device, y, kept, ...rest);
          expectClose(valuesOf(y), want.y, tolerance[dtype], "y");
          expect(valuesOf(kept)).toEqual(x);
          const again = place(x);
          rmsnormRopeForward(device, again, null, ...rest);
          expect(valuesOf(again)).toEqual(valuesOf(y));

          const start = new Random(9).floats(headDim);
          const dweight = upload(device, "f32", [headDim], start);
          const dx = place(dy);
          rmsnormRopeBackward(device, dx, dweight, kept, ...rest);
          expectClose(valuesOf(dx), want.dx, tolerance[dtype], "dx");
          const added = device.readFloats(dweight).map((value, j) => value - start[j]!);
          expectClose(added, want.dweight, 1e-5, "dweight");
          const frozen = place(dy);
          rmsnormRopeBackward(device, frozen, null, kept, ...rest);
          expect(valuesOf(frozen)).toEqual(valuesOf(dx));
        }
      });
    }
  }

  test("a weight of ones and heads of rstd 1 leave RoPE alone", () => {
    const { at, x } = inputs(6, 2, 8);
    const [norm, tables, positions] = onDevice(device, at, new Float32Array(8).fill(1));
    const unit = x.map((_, i) => (i % 3 === 0 ? -1 : 1)); // mean of squares 1
    const [a, b] = [upload(device, "f32", [6, 16], unit), upload(device, "f32", [6, 16], unit)];
    rmsnormRopeForward(device, a, null, { ...norm, eps: 0 }, tables, positions);
    rope(device, b, tables, positions, 8);
    expect(device.readFloats(a)).toEqual(device.readFloats(b));
  });

  test("the same bits run to run", () => {
    const { at, x, dy, weight } = inputs(400, 3, 64);
    const rest = onDevice(device, at, weight);
    const input = upload(device, "f32", [400, 192], x);
    const run = () => {
      const dweight = upload(device, "f32", [64], new Float32Array(64));
      const dx = upload(device, "f32", [400, 192], dy);
      rmsnormRopeBackward(device, dx, dweight, input, ...rest);
      return [device.readBytes(dweight), device.readBytes(dx)];
    };
    expect(run()).toEqual(run());
  });

  test("zero sizes write nothing; bad arguments are refused", () => {
    const { at, x, weight } = inputs(2, 1, 4);
    const [norm, tables, positions] = onDevice(device, at, weight);
    const tensor = upload(device, "f32", [2, 4], x);
    const dweight = poisoned(device, "f32", [4]);
    rmsnormRopeForward(device, tensor.rows(0, 0), null, norm, tables, positions);
    rmsnormRopeBackward(device, tensor.rows(0, 0), dweight, tensor.rows(0, 0), norm, tables, positions);
    expect(device.readFloats(tensor)).toEqual(x);
    expect(device.readFloats(dweight).every(Number.isNaN)).toBe(true);

    const backwards = uploadInts(device, [0, -1]);
    const call = () => rmsnormRopeForward(device, tensor, null, norm, tables, backwards);
    if (device.isHost) {
      expect(call).toThrow("rmsnorm_rope_forward: positions must be ≥ 0, got -1 at token 1");
    } else {
      call(); // a device sees positions only in the kernel
      const y = device.readFloats(tensor);
      expect([y.subarray(0, 4).some(Number.isNaN), y.subarray(4).every(Number.isNaN)]).toEqual([false, true]);
    }
    const raw = (change: Record<string, unknown>) => () => {
      const a = { dtype: 0, ld: 4, kept: null, ldkept: 4, weight: norm.weight.ptr, headDim: 4, ...change };
      const turned = [tables.cosine.ptr, tables.sine.ptr, positions.ptr] as const;
      device.call(
        "nt_rmsnorm_rope_forward",
        ...[a.dtype, tensor.ptr, a.ld, a.kept, a.ldkept, a.weight, ...turned, 2, 1, a.headDim, eps],
      );
    };
    const refused: [Record<string, unknown>, string][] = [
      [{ dtype: 2 }, "rmsnorm_rope_forward: dtype must be f32 or bf16, got 2"],
      [{ headDim: 3 }, "head_dim must be even, got 3"],
      [{ headDim: 258, ld: 258 }, "head_dim must be at most 256, got 258"],
      [{ ld: 3 }, "ldx must be at least heads · head_dim = 4, got 3"],
      [{ weight: null }, "weight must not be null"],
      [{ kept: tensor.ptr, ldkept: 3 }, "row distance must be at least heads · head_dim = 4, got 3"],
    ];
    for (const [change, message] of refused) {
      expect(raw(change)).toThrow(NativeError);
      expect(raw(change)).toThrow(message);
    }
    const withoutInput = () =>
      device.call(
        "nt_rmsnorm_rope_backward",
        ...[0, tensor.ptr, 4, null, null, 4, norm.weight.ptr],
        ...[tables.cosine.ptr, tables.sine.ptr, positions.ptr, 2, 1, 4, eps],
      );
    expect(withoutInput).toThrow("rmsnorm_rope_backward: x must not be null");
  });
});
