// LoRA's gradients on a CPU: tokens that fill every thread's cache in turn, and with more threads than that the whole
// product at once, add up to the same bits.

import { expect, test } from "bun:test";
import {
  Device,
  loraBackward,
  loraForward,
  swigluBackwardLora,
  type Tensor,
} from "../../src/native/index.ts";
import { loadCpuLibrary } from "../../src/native/library.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { Random, roundTo } from "./numbers.ts";

const [T, wide, rank] = [2300, 40, 6];

forEachBackend((device, name) => {
  if (!name.startsWith("cpu")) return;
  const isa = name.split(" ")[1]!;
  const withThreads = <R>(threads: number, run: (other: Device) => R): R => {
    const other = Device.open({ threads, library: loadCpuLibrary({ ...process.env, NEFTUNE_CPU_ISA: isa }) });
    try {
      return run(other);
    } finally {
      other.close();
    }
  };
  const read = (on: Device, tensors: Tensor[]) => tensors.map((tensor) => on.readBytes(tensor));

  for (const dtype of ["f32", "bf16"] as const) {
    const random = new Random(T);
    const [dy, u, b, gateUp] = [T * wide, T * rank, wide * rank, 2 * T * wide].map((n) =>
      roundTo(dtype, random.floats(n)),
    );
    const start = random.floats(wide * rank);

    test(`${dtype} lora_backward`, () => {
      const run = (on: Device) => {
        const g = poisoned(on, dtype, [T, rank]);
        const db = upload(on, "f32", [wide, rank], start);
        const target = { b: upload(on, dtype, [wide, rank], b!), db, row: 0, column: 0 };
        loraBackward(on, g, upload(on, dtype, [T, wide], dy!), upload(on, dtype, [T, rank], u!), [target], 2);
        return read(on, [g, db]);
      };
      const wanted = run(device);
      for (const threads of [1, 32]) expect(withThreads(threads, run)).toEqual(wanted);
    });

    test(`${dtype} lora_backward with more columns in g than in dy`, () => {
      const run = (on: Device) => {
        const g = poisoned(on, dtype, [T, wide]);
        const db = upload(on, "f32", [rank, wide], start);
        const target = { b: upload(on, dtype, [rank, wide], b!), db, row: 0, column: 0 };
        loraBackward(on, g, upload(on, dtype, [T, rank], u!), upload(on, dtype, [T, wide], dy!), [target], 1);
        return read(on, [g, db]);
      };
      const wanted = run(device);
      for (const threads of [1, 4]) expect(withThreads(threads, run)).toEqual(wanted);
    });

    test(`${dtype} swiglu_backward_lora`, () => {
      const run = (on: Device) => {
        const da = upload(on, "f32", [rank, wide], start);
        const [gradient, dh] = [upload(on, dtype, [T, 2 * wide], gateUp!), upload(on, dtype, [T, wide], dy!)];
        swigluBackwardLora(on, gradient, da, upload(on, dtype, [T, rank], u!), dh);
        return read(on, [gradient, da, dh]);
      };
      const wanted = run(device);
      for (const threads of [1, 32]) expect(withThreads(threads, run)).toEqual(wanted);
    });
  }

  test("lora_forward's second result is its first", () => {
    const random = new Random(1);
    const x = upload(device, "bf16", [50, wide], roundTo("bf16", random.floats(50 * wide)));
    const a = upload(device, "bf16", [rank, wide], roundTo("bf16", random.floats(rank * wide)));
    const [first, rows] = [poisoned(device, "bf16", [50, rank]), poisoned(device, "bf16", [50, rank + 4])];
    loraForward(device, first, x, a, 0.5, rows.columns(0, rank));
    const [once, again] = [device.readFloats(first), device.readFloats(rows)];
    for (let t = 0; t < 50; t++) {
      const row = again.subarray(t * (rank + 4), (t + 1) * (rank + 4));
      expect(row.subarray(0, rank)).toEqual(once.subarray(t * rank, (t + 1) * rank));
      expect(row.subarray(rank).every(Number.isNaN)).toBe(true);
    }
  });
});
