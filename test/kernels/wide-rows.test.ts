// Tensors whose rows lie in wider ones, as inputs and outputs of folded products do (src/model/fold.ts): the result must
// be that of rows side by side, and nothing between the rows may change.

import { expect, test } from "bun:test";
import {
  Arena,
  allocateNf4,
  blockWords,
  copyBlocks,
  type Device,
  dropout,
  learnedScaleBackward,
  linearBackwardInput,
  linearForward,
  loraBackwardA,
  loraForward,
  nf4Dequantize,
  nf4Quantize,
  rmsnormBackward,
  rmsnormForward,
  swigluBackward,
  swigluBackwardLora,
  swigluForward,
  type Tensor,
  Weight,
} from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { expectClose, Random, tolerance } from "./numbers.ts";

/** Makes tensors, those of wide() in rows `gap` longer, and reads what all of them hold. */
class Rows {
  readonly device: Device;
  readonly dtype: "f32" | "bf16";
  readonly #gap: number;
  readonly #random = new Random(7);
  readonly #made: { tensor: Tensor; whole: Tensor }[] = [];

  constructor(device: Device, dtype: "f32" | "bf16", gap: number) {
    this.device = device;
    this.dtype = dtype;
    this.#gap = gap;
  }

  wide(rows: number, columns: number, dtype = this.dtype, gap = this.#gap): Tensor {
    const whole = poisoned(this.device, dtype, [rows, columns + gap]);
    const tensor = whole.columns(0, columns);
    const values = upload(this.device, dtype, [rows, columns], this.#random.floats(rows * columns));
    copyBlocks(this.device, blockWords([{ destination: tensor, source: values }]));
    this.#made.push({ tensor, whole });
    return tensor;
  }

  dense(rows: number, columns: number, dtype = this.dtype): Tensor {
    return this.wide(rows, columns, dtype, 0);
  }

  /** Leaves out what an operation has made undefined. */
  forget(tensor: Tensor): void {
    this.#made.splice(
      this.#made.findIndex((one) => one.tensor === tensor),
      1,
    );
  }

  /** Row by row; fails where a value between rows is no longer what it was. */
  contents(): Float32Array[] {
    return this.#made.map(({ tensor, whole }) => {
      const [width, columns] = [whole.columnCount, tensor.columnCount];
      const values = this.device.readFloats(whole);
      const isBetween = (i: number) => i % width >= columns;
      expect(values.filter((_, i) => isBetween(i)).every(Number.isNaN)).toBe(true);
      return values.filter((_, i) => !isBetween(i));
    });
  }
}

const T = 37;
const samples = { cuSeqlens: Int32Array.of(0, 11, T) };
const draws = BigInt64Array.of(3n, 8n);

/** On tensors of about `columns` columns. */
const operations: Record<string, (rows: Rows, columns: number) => void> = {
  rmsnorm: (rows, H) => {
    const { device } = rows;
    const [x, delta, dy, weight] = [
      rows.dense(T, H),
      rows.dense(T, H),
      rows.dense(T, H),
      rows.dense(1, H, "f32").reshape([H]),
    ];
    const rstd = rows.dense(1, T, "f32").reshape([T]);
    rmsnormForward(device, rows.wide(T, H), rstd, x, weight, 1e-5, { delta, sum: x });
    const [dx, dweight] = [rows.wide(T, H), rows.dense(1, H, "f32").reshape([H])];
    rmsnormBackward(device, dx, null, dy, x, weight, rstd, dx);
    rmsnormBackward(device, dx, dweight, dy, x, weight, rstd, rows.wide(T, H));
  },
  swiglu: (rows, I) => {
    const { device } = rows;
    const gateUp = rows.wide(T, 2 * I);
    swigluForward(device, rows.wide(T, I), gateUp);
    swigluBackward(device, gateUp, rows.wide(T, I), rows.wide(T, I));
  },
  "swiglu with dA": (rows, I) => {
    const [da, g] = [rows.dense(16, I, "f32"), rows.wide(T, 16)];
    const dh = rows.wide(T, I);
    swigluBackwardLora(rows.device, rows.wide(T, 2 * I), da, g, dh);
    rows.forget(dh);
  },
  dropout: (rows, columns) => {
    const { device } = rows;
    const [x, y] = [rows.wide(T, columns), rows.wide(T, columns)];
    const options = { p: 0.3, seed: 5, module: 3, draws };
    dropout(device, rows.dense(T, columns), x, samples, options);
    dropout(device, y, rows.dense(T, columns), samples, options, true);
    dropout(device, x, x, samples, options);
  },
  "a learned scale": (rows, H) => {
    const noise = { kind: "uniform", seed: 5, scales: Float32Array.of(0.5, 2), draws } as const;
    const scale = rows.dense(1, H, "f32").reshape([H]);
    learnedScaleBackward(rows.device, scale, rows.wide(T, H), samples, noise);
  },
  "LoRA's u in two places": (rows, inputs) => {
    const [x, a] = [rows.wide(T, inputs), rows.dense(24, inputs)];
    loraForward(rows.device, rows.dense(T, 24), x, a, 0.5, rows.wide(T, 24));
  },
  "LoRA's dA": (rows, inputs) =>
    loraBackwardA(rows.device, rows.dense(24, inputs, "f32"), rows.wide(T, 24), rows.wide(T, inputs)),
  "products with a weight": (rows, inputs) => {
    const { device } = rows;
    const weight = Weight.dense(device, rows.wide(40, inputs));
    for (const count of [1, T]) {
      linearForward(device, rows.wide(count, 40), rows.wide(count, inputs), weight, null);
      linearBackwardInput(device, rows.wide(count, inputs), rows.wide(count, 40), weight, null, true);
    }
    weight.destroy();
  },
  "NF4 values": (rows, columns) => {
    const { device, dtype } = rows;
    const arena = new Arena(device, 1 << 16);
    const nf4 = allocateNf4(arena, "weights", [40, columns], dtype, false);
    nf4Quantize(device, nf4, rows.dense(40, columns), null, null);
    nf4Dequantize(device, rows.wide(40, columns), nf4);
    arena.free();
  },
};

forEachBackend((device) => {
  test("more blocks than a GPU's launch takes", () => {
    const [blocks, columns] = [200, 24];
    const values = Float32Array.from({ length: 2 * blocks * columns }, (_, i) => i);
    const source = upload(device, "f32", [2 * blocks, columns], values);
    const destination = poisoned(device, "f32", [2 * blocks, columns]);
    const block = (_: unknown, i: number) => ({
      destination: destination.rows(2 * i, 2),
      source: source.rows(2 * i, 2),
    });
    copyBlocks(device, blockWords(Array.from({ length: blocks }, block)));
    expect(device.readFloats(destination)).toEqual(values);
  });

  for (const [name, run] of Object.entries(operations)) {
    for (const dtype of ["f32", "bf16"] as const) {
      // Widths and distances that vector kernels take, and others.
      for (const [columns, gap] of [
        [136, 24],
        [136, 3],
        [33, 31],
      ] as const) {
        test(`${name}, ${dtype}, ${columns} of ${columns + gap} columns`, () => {
          const [together, apart] = [0, gap].map((one) => {
            const rows = new Rows(device, dtype, one);
            run(rows, columns);
            return rows.contents();
          }) as [Float32Array[], Float32Array[]];
          for (const [i, values] of apart.entries())
            expectClose(values, together[i]!, tolerance[dtype], `tensor ${i}`);
        });
      }
    }
  }
});
