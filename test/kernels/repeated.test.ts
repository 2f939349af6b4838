// What a CPU kernel computes depends neither on the number of threads nor on what its working memory held before.

import { expect, test } from "bun:test";
import {
  Device,
  linearBackwardInput,
  linearForward,
  loraBackward,
  loraBackwardA,
  loraForward,
  type Tensor,
  Weight,
} from "../../src/native/index.ts";
import { loadCpuLibrary } from "../../src/native/library.ts";
import { type Activation, columnsOf, dtypes, runBoth } from "./attention-runs.ts";
import { forEachBackend, upload } from "./harness.ts";
import { Random, roundTo } from "./numbers.ts";

/** Values of a tensor; each call gives others. */
type Values = (n: number) => Float32Array;
type Run = (device: Device, dtype: Activation, values: Values) => unknown;

/** Attention's two passes, with samples that end within tiles. */
const attention: Run = (device, dtype, values) =>
  [
    { heads: 3, kvHeads: 1, headDim: 80, window: 41 },
    { heads: 4, kvHeads: 2, headDim: 33 },
  ].map((shape) => {
    const lengths = [1, 163, 30];
    const T = 194;
    return runBoth(
      device,
      dtype,
      shape,
      lengths,
      values(T * columnsOf(shape)),
      values(T * shape.heads * shape.headDim),
    );
  });

/** LoRA's products and those with a weight, of T rows that lie apart. */
const products =
  (T: number, inputs: number, out: number, rank: number): Run =>
  (device, dtype, values) => {
    const make = (rows: number, columns: number, as = dtype) =>
      upload(device, as, [rows, columns], values(rows * columns));
    const apart = (columns: number) => make(T, columns + 4).columns(0, columns);
    const [x, dy, u, dx] = [apart(inputs), apart(out), apart(rank), make(T, inputs)];
    const [a, b, w] = [make(rank, inputs), make(out, rank), make(out, inputs)];
    const [down, back] = [make(T, rank), make(T, rank)];
    const [da, db] = [make(rank, inputs, "f32"), make(out, rank, "f32")];
    loraForward(device, down, x, a, 0.5);
    loraBackward(device, back, dy, u, [{ b, db, row: 0, column: 0 }], 0.5);
    loraBackwardA(device, da, u, x);
    const weight = Weight.dense(device, w);
    const low = { u, blocks: [{ b, row: 0, column: 0 }] };
    const [each, tiled] = (["each", "tiled"] as const).map((rows): Tensor => {
      const y = make(T, out);
      linearForward(device, y, x, weight, null, low, rows);
      return y;
    });
    linearBackwardInput(device, dx, dy, weight, { left: u, right: a }, true);
    weight.destroy();
    const read = (tensor: Tensor) => device.readFloats(tensor);
    return [down, back, da, db, each!, tiled!, dx].map(read);
  };

const runs: Record<string, Run> = {
  attention,
  "products of 300 rows": products(300, 96, 130, 20),
  "products of 37 rows": products(37, 33, 47, 5),
};

// Other backends have no such number.
forEachBackend((device, backend) => {
  for (const [name, run] of Object.entries(runs))
    for (const dtype of dtypes)
      test.skipIf(!backend.startsWith("cpu "))(
        `${name}, ${dtype}: the same bits with 1, 2 and 5 threads, after NaN`,
        () => {
          const library = loadCpuLibrary({ ...process.env, NEFTUNE_CPU_ISA: backend.slice(4) });
          const random = () => {
            const numbers = new Random(5);
            return (n: number) => roundTo(dtype, numbers.floats(n));
          };
          const wanted = run(device, dtype, random());
          for (const threads of [1, 2, 5]) {
            const other = Device.open({ threads, library });
            run(other, dtype, (n) => new Float32Array(n).fill(Number.NaN));
            expect(run(other, dtype, random()), `${threads} threads`).toEqual(wanted);
            other.close();
          }
        },
      );
});
