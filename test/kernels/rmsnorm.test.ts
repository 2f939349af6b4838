import { expect, test } from "bun:test";
import { type Device, NativeError, rmsnormBackward, rmsnormForward, Tensor } from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { expectClose, Random, roundTo, slopes, tolerance } from "./numbers.ts";

const dtypes = ["f32", "bf16"] as const;
type Three = [Tensor, Tensor, Tensor];
/** Large, so that a norm of one column still has a gradient. */
const eps = 0.1;

/** y[T,H] and rstd[T] in float64. */
function forward(x: ArrayLike<number>, weight: ArrayLike<number>, T: number, H: number) {
  const y = new Float64Array(T * H);
  const rstd = new Float64Array(T);
  for (let t = 0; t < T; t++) {
    let squares = 0;
    for (let j = 0; j < H; j++) squares += x[t * H + j]! ** 2;
    rstd[t] = 1 / Math.sqrt(squares / H + eps);
    for (let j = 0; j < H; j++) y[t * H + j] = x[t * H + j]! * rstd[t]! * weight[j]!;
  }
  return { y, rstd };
}

/** dx[T,H] (without residual) and dweight[H] in float64. */
function backward(
  dy: ArrayLike<number>,
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  T: number,
  H: number,
) {
  const { rstd } = forward(x, weight, T, H);
  const dx = new Float64Array(T * H);
  const dweight = new Float64Array(H);
  for (let t = 0; t < T; t++) {
    let dot = 0;
    for (let j = 0; j < H; j++) dot += dy[t * H + j]! * weight[j]! * x[t * H + j]!;
    const c = (dot / H) * rstd[t]! ** 2;
    for (let j = 0; j < H; j++) {
      const i = t * H + j;
      dx[i] = rstd[t]! * (dy[i]! * weight[j]! - x[i]! * c);
      dweight[j] = dweight[j]! + dy[i]! * x[i]! * rstd[t]!;
    }
  }
  return { dx, dweight };
}

function inputs(device: Device, dtype: "f32" | "bf16", T: number, H: number) {
  const random = new Random(T * 1000 + H);
  const values = () => roundTo(dtype, random.floats(T * H, 2));
  const [x, delta, dy] = [values(), values(), values()];
  const weight = random.floats(H);
  const tensor = (data: Float32Array) => upload(device, dtype, [T, H], data);
  return { x, delta, dy, weight, tensor, weightTensor: upload(device, "f32", [H], weight) };
}

test("the reference's gradients are those of its forward", () => {
  const [T, H] = [2, 7];
  const random = new Random(3);
  const [x, weight, dy] = [random.floats(T * H), random.floats(H), random.floats(T * H)];
  const { dx, dweight } = backward(dy, x, weight, T, H);
  const loss = (a: ArrayLike<number>, w: ArrayLike<number>) =>
    forward(a, w, T, H).y.reduce((sum, y, i) => sum + y * dy[i]!, 0);
  const numeric = {
    dx: slopes(Float64Array.from(x), (changed) => loss(changed, weight), 1e-5),
    dweight: slopes(Float64Array.from(weight), (changed) => loss(x, changed), 1e-5),
  };
  expectClose(dx, numeric.dx, 1e-8, "dx");
  expectClose(dweight, numeric.dweight, 1e-8, "dweight");
});

forEachBackend((device) => {
  for (const dtype of dtypes) {
    for (const [T, H] of [
      [1, 1],
      [3, 3],
      [5, 17],
      [2, 65],
      [3, 129],
      [300, 129],
      [40, 576],
      [2, 4096],
      [3, 4099],
      [20, 4104],
      [2, 16408],
    ] as const) {
      test(`forward ${dtype} [${T},${H}]`, () => {
        const { x, delta, weight, tensor, weightTensor } = inputs(device, dtype, T, H);
        const y = poisoned(device, dtype, [T, H]);
        const rstd = poisoned(device, "f32", [T]);
        rmsnormForward(device, y, rstd, tensor(x), weightTensor, eps);
        const want = forward(x, weight, T, H);
        for (const [t, value] of device.readFloats(rstd).entries())
          expect(Math.abs(value / want.rstd[t]! - 1)).toBeLessThanOrEqual(1e-6);
        const got = device.readFloats(y);
        const relative = dtype === "f32" ? 1e-6 : 2 ** -8;
        for (const [i, value] of want.y.entries())
          if (!(Math.abs(got[i]! - value) <= relative * Math.abs(value)))
            throw new Error(`y[${i}] is ${got[i]} instead of ${value}`);

        const summed = roundTo(
          dtype,
          Float32Array.from(x, (value, i) => value + delta[i]!),
        );
        const wantSum = forward(summed, weight, T, H);
        for (const alias of ["none", "x", "delta"] as const) {
          const [a, b] = [tensor(x), tensor(delta)];
          const sum = { none: poisoned(device, dtype, [T, H]), x: a, delta: b }[alias];
          rmsnormForward(device, y, rstd, a, weightTensor, eps, { delta: b, sum });
          expect(device.readFloats(sum), `sum in place of ${alias}`).toEqual(summed);
          expectClose(device.readFloats(y), wantSum.y, tolerance[dtype], `y, sum in place of ${alias}`);
          expectClose(device.readFloats(rstd), wantSum.rstd, 1e-6, "rstd");
        }
      });

      test(`backward ${dtype} [${T},${H}]`, () => {
        const { x, delta: residual, dy, weight, tensor, weightTensor } = inputs(device, dtype, T, H);
        const want = backward(dy, x, weight, T, H);
        const wantSum = want.dx.map((value, i) => value + residual[i]!);
        const rstd = upload(device, "f32", [T], Float32Array.from(forward(x, weight, T, H).rstd));
        const start = new Random(9).floats(H);
        const dweight = upload(device, "f32", [H], start);
        const dx = poisoned(device, dtype, [T, H]);
        rmsnormBackward(device, dx, dweight, tensor(dy), tensor(x), weightTensor, rstd, null);
        expectClose(device.readFloats(dx), want.dx, tolerance[dtype], "dx");
        const added = device.readFloats(dweight).map((value, j) => value - start[j]!);
        expectClose(added, want.dweight, 1e-5, "dweight");

        for (const alias of ["none", "dy", "residual"] as const) {
          const [a, b] = [tensor(dy), tensor(residual)];
          const out = { none: poisoned(device, dtype, [T, H]), dy: a, residual: b }[alias];
          rmsnormBackward(device, out, null, a, tensor(x), weightTensor, rstd, b);
          expectClose(device.readFloats(out), wantSum, tolerance[dtype], `dx in place of ${alias}`);
        }
      });
    }
  }

  test("the same bits run to run", () => {
    const [T, H] = [500, 65];
    const { x, dy, tensor, weightTensor } = inputs(device, "f32", T, H);
    const rstd = upload(device, "f32", [T], new Float32Array(T).fill(1.5));
    const run = () => {
      const dweight = upload(device, "f32", [H], new Float32Array(H));
      const dx = poisoned(device, "f32", [T, H]);
      rmsnormBackward(device, dx, dweight, tensor(dy), tensor(x), weightTensor, rstd, null);
      return [device.readBytes(dweight), device.readBytes(dx)];
    };
    expect(run()).toEqual(run());
  });

  test("a row has the same bits whatever rows are beside it", () => {
    const [T, H] = [7, 200];
    const { x, delta, dy, tensor, weightTensor } = inputs(device, "bf16", T, H);
    const run = (begin: number, count: number) => {
      const [a, b, upstream] = [x, delta, dy].map((values) => tensor(values).rows(begin, count)) as Three;
      const outputs = [0, 1, 2].map(() => poisoned(device, "bf16", [count, H])) as Three;
      const [y, sum, dx] = outputs;
      const rstd = poisoned(device, "f32", [count]);
      rmsnormForward(device, y, rstd, a, weightTensor, eps, { delta: b, sum });
      rmsnormBackward(device, dx, null, upstream, sum, weightTensor, rstd, a);
      return outputs.map((output) => device.readFloats(output));
    };
    const all = run(0, T);
    for (const [begin, count] of [
      [0, 1],
      [2, 3],
      [1, 6],
      [6, 1],
    ] as const) {
      const part = all.map((values) => values.slice(begin * H, (begin + count) * H));
      expect(run(begin, count)).toEqual(part);
    }
  });

  test("zero sizes write nothing; bad arguments are refused", () => {
    const { x, tensor, weightTensor } = inputs(device, "f32", 2, 3);
    const y = poisoned(device, "f32", [2, 3]);
    const rstd = poisoned(device, "f32", [2]);
    const none = new Tensor(tensor(x).ptr, "f32", [0, 3]);
    rmsnormForward(device, y.rows(0, 0), rstd, none, weightTensor, eps);
    rmsnormBackward(device, y.rows(0, 0), null, none, none, weightTensor, rstd, null);
    expect(device.readFloats(y).every(Number.isNaN)).toBe(true);
    const call = (dtype: number, sum: number | null, delta: number | null, T: number) => () =>
      device.call(
        "nt_rmsnorm_forward",
        dtype,
        y.ptr,
        3,
        sum,
        rstd.ptr,
        y.ptr,
        delta,
        weightTensor.ptr,
        T,
        3,
        eps,
      );
    expect(call(2, null, null, 2)).toThrow("rmsnorm_forward: dtype must be f32 or bf16, got 2");
    expect(call(0, null, y.ptr, 2)).toThrow("with delta, sum must not be null");
    expect(call(0, null, null, -1)).toThrow("sizes must be ≥ 0, got T -1");
    const backwardCall = () =>
      device.call("nt_rmsnorm_backward", 0, null, 3, null, y.ptr, y.ptr, y.ptr, y.ptr, null, 2, 3);
    expect(backwardCall).toThrow(NativeError);
  });
});
