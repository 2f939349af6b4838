// Products too large for a CPU's caches: long sums are put aside in between, and wide weights and many rows are packed in
// parts.

import { expect, test } from "bun:test";
import { linearBackwardInput, linearForward, Weight } from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { expectClose, tolerance } from "./numbers.ts";
import { dense, plus, product, transpose } from "./products.ts";

// [T, in, out, rank]. By AMX and by vectors: sums in one part and in several, more rows and columns than are put aside at a
// time. By vectors: a rank that is not taken into the sum, beside which a packed row would have no room for it.
const shapes = [
  [140, 1700, 70, 8],
  [384, 8192, 1088, 8],
  [300, 700, 130, 40],
  [2100, 1056, 2200, 8],
  [300, 744, 90, 300],
] as const;
const dtypes = ["bf16", "f32"] as const;

/** Multiples of ⅛ between −1 and 1, which bf16 holds. */
function eighths(n: number, seed: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(n);
  for (let i = 0; i < n; i++) values[i] = ((Math.imul(i + seed, 0x9e3779b1) >>> 20) % 17) / 8 - 1;
  return values;
}

function madeOf([T, inputs, out, rank]: (typeof shapes)[number]) {
  const blockRows = Math.floor(out / 20); // The last rows of the weight have a low-rank term.
  const [x, w, dy, start] = [T * inputs, out * inputs, T * out, T * inputs].map(eighths);
  const [u, a, b] = [T * rank, rank * inputs, blockRows * rank].map(eighths);
  const bias = eighths(out, 5);
  const rows = [5, T - 1];
  const rowsOf = (values: Float32Array, columns: number) => ({
    ...{ rows: rows.length, columns },
    at: (i: number, j: number) => values[rows[i]! * columns + j]!,
  });
  const allB = new Float32Array(out * rank);
  allB.set(b!, (out - blockRows) * rank);
  const weight = dense(w!, out, inputs);
  const [us, biases] = [rowsOf(u!, rank), new Float32Array([...bias, ...bias])];
  const y = plus(
    product(rowsOf(x!, inputs), transpose(weight)),
    product(us, transpose(dense(allB, out, rank)), biases),
  );
  const before = rows.flatMap((row) => [...start!.subarray(row * inputs, (row + 1) * inputs)]);
  const dx = plus(product(rowsOf(dy!, out), weight), product(us, dense(a!, rank, inputs), before));
  const pick = (values: Float32Array, columns: number) =>
    rows.flatMap((row) => [...values.subarray(row * columns, (row + 1) * columns)]);
  return { blockRows, x: x!, w: w!, dy: dy!, start: start!, u: u!, a: a!, b: b!, bias, y, dx, pick };
}

for (const shape of shapes) {
  const [T, inputs, out, rank] = shape;
  let made: ReturnType<typeof madeOf> | undefined;
  forEachBackend((device) => {
    if (!device.isHost) return; // A GPU's tiles are the same for every size.
    test.each(dtypes)(`%s, T ${T}, ${inputs} → ${out}, rank ${rank}, forward and backward`, (dtype) => {
      made ??= madeOf(shape);
      const on = (columns: number, values: Float32Array<ArrayBuffer>) =>
        upload(device, dtype, [values.length / columns, columns], values);
      const weight = Weight.dense(device, on(inputs, made.w));
      // NaN between rows, where blocks of the sum reach beyond their ends.
      const apart = (columns: number, values: Float32Array<ArrayBuffer>) => {
        const distance = columns % 32 === 0 ? columns : columns + 3;
        const wide = new Float32Array(T * distance).fill(Number.NaN);
        for (let t = 0; t < T; t++) wide.set(values.subarray(t * columns, (t + 1) * columns), t * distance);
        return on(distance, wide).columns(0, columns);
      };
      const u = apart(rank, made.u);
      const low = { u, blocks: [{ b: on(rank, made.b), row: out - made.blockRows, column: 0 }] };
      const y = poisoned(device, "f32", [T, out]);
      linearForward(device, y, apart(inputs, made.x), weight, upload(device, "f32", [out], made.bias), low);
      // A rank that is not taken into the sum is added to y, which is float32.
      expectClose(made.pick(device.readFloats(y), out), made.y, tolerance.f32, "y");
      const dx = on(inputs, made.start);
      linearBackwardInput(
        device,
        dx,
        apart(out, made.dy),
        weight,
        { left: u, right: on(inputs, made.a) },
        true,
      );
      const got = device.readFloats(dx);
      expectClose(made.pick(got, inputs), made.dx, tolerance[dtype], "dx");
      expect(got.every(Number.isFinite)).toBe(true);
      weight.destroy();
      for (const tensor of [y, dx, u]) device.free(tensor.ptr);
    });
  });
}
