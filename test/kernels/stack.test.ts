// Weights on top of each other: one product where the backend can make it, else one for each part.

import { expect, test } from "bun:test";
import { usesAmx } from "../../src/native/cpu-isa.ts";
import {
  Device,
  linearBackwardInput,
  linearCrossEntropy,
  linearForward,
  type ProductRows,
  type Tensor,
  Weight,
} from "../../src/native/index.ts";
import { loadCpuLibrary } from "../../src/native/library.ts";
import { forEachBackend, manyRows, poisoned, upload } from "./harness.ts";
import { quantized, valuesOn } from "./nf4-reference.ts";
import { expectClose, Random, roundTo, tolerance } from "./numbers.ts";
import { dense, plus, product, transpose } from "./products.ts";

// Rows of each part, and their inputs: borders within vectors and within pairs, parts smaller than a vector, sums in several
// parts, more columns than are packed at a time.
const shapes: [outs: number[], inputs: number][] = [
  [[19, 5, 41], 70],
  [[1, 2, 3], 5],
  [[8], 16],
  [[64, 32, 32], 64],
  [[333, 7, 500], 720],
  [[50, 30], 1100],
];
const rank = 6;
const sum = (values: readonly number[]) => values.reduce((all, value) => all + value, 0);
const rowsBefore = (outs: readonly number[]) => outs.map((_, i) => sum(outs.slice(0, i)));

interface Problem {
  x: Tensor;
  dy: Tensor;
  bias: Tensor;
  u: Tensor;
  /** LoRA blocks of rows begin … begin + n, each with columns of u of its own. */
  blocks: { b: Tensor; row: number; column: number }[];
  a: Tensor;
  start: Tensor;
}

function problem(device: Device, dtype: "f32" | "bf16", T: number, outs: number[], inputs: number): Problem {
  const random = new Random(T + inputs);
  const make = (rows: number, columns: number) =>
    upload(device, dtype, [rows, columns], roundTo(dtype, random.floats(rows * columns)));
  const out = sum(outs);
  // One that reaches over a border, where there is one, and one behind a gap.
  const middle = Math.max(1, Math.floor(out / 2));
  const blocks = [
    { b: make(middle, rank), row: 0, column: rank },
    ...(out - middle > 1 ? [{ b: make(out - middle - 1, rank), row: middle + 1, column: 0 }] : []),
  ];
  return {
    ...{ x: make(T, inputs), dy: make(T, out), u: make(T, 2 * rank), a: make(rank, inputs) },
    ...{ bias: upload(device, "f32", [out], random.floats(out)), blocks, start: make(T, inputs) },
  };
}

type Results = Record<"y" | "wide" | "dx" | "added", Tensor>;

/** y, y in float32 without bias and LoRA, dx, and dx added to `start`, by these weights one after the other. */
function resultsOf(device: Device, p: Problem, weights: readonly Weight[], rows?: ProductRows): Results {
  const [T, inputs] = [p.x.rowCount, p.x.columnCount];
  const outs = weights.map((weight) => weight.out);
  const begins = rowsBefore(outs);
  const made: Results = {
    y: poisoned(device, p.x.dtype, [T, sum(outs)]),
    wide: poisoned(device, "f32", [T, sum(outs)]),
    dx: poisoned(device, p.x.dtype, [T, inputs]),
    added: poisoned(device, p.x.dtype, [T, inputs]),
  };
  device.writeFloats(made.added, device.readFloats(p.start));
  const low = { left: p.u.columns(0, rank), right: p.a.rows(0, rank) };
  for (const [i, weight] of weights.entries()) {
    const [row, n] = [begins[i]!, weight.out];
    const blocks = p.blocks.flatMap(({ b, row: first, column }) => {
      const [from, end] = [Math.max(first, row), Math.min(first + b.rowCount, row + n)];
      return from < end ? [{ b: b.rows(from - first, end - from), row: from - row, column }] : [];
    });
    const lora = blocks.length > 0 ? { u: p.u, blocks } : null;
    const bias = p.bias
      .reshapeTo([sum(outs), 1])
      .rows(row, n)
      .reshapeTo([n]);
    linearForward(device, made.y.columns(row, n), p.x, weight, bias, lora, rows);
    linearForward(device, made.wide.columns(row, n), p.x, weight, null, null, rows);
    linearBackwardInput(device, made.dx, p.dy.columns(row, n), weight, i === 0 ? low : null, i > 0);
    linearBackwardInput(device, made.added, p.dy.columns(row, n), weight, null, true);
  }
  return made;
}

const bytesOf = (device: Device, results: Results) =>
  Object.values(results).map((tensor: Tensor) => device.readBytes(tensor));

/** The same in float64. */
function wanted(device: Device, p: Problem, weight: Tensor): Record<keyof Results, Float64Array> {
  const read = (tensor: Tensor) => dense(device.readFloats(tensor), tensor.rowCount, tensor.columnCount);
  const [x, dy, w, u] = [p.x, p.dy, weight, p.u].map(read) as [Dense, Dense, Dense, Dense];
  const allB = new Float32Array(w.rows * u.columns);
  for (const { b, row, column } of p.blocks) {
    const values = read(b);
    for (let i = 0; i < b.rowCount; i++)
      for (let j = 0; j < rank; j++) allB[(row + i) * u.columns + column + j] = values.at(i, j);
  }
  const bias = device.readFloats(p.bias);
  const biases = Float64Array.from({ length: x.rows * w.rows }, (_, i) => bias[i % w.rows]!);
  const wide = product(x, transpose(w));
  const dx = product(dy, w);
  return {
    y: plus(wide, product(u, transpose(dense(allB, w.rows, u.columns)), biases)),
    wide,
    dx: plus(dx, product({ ...u, columns: rank }, read(p.a))),
    added: plus(dx, device.readFloats(p.start)),
  };
}
type Dense = ReturnType<typeof dense>;

/** Whether products of a stack are made by vectors here, and so as those of one matrix. */
const isOneSum = (name: string, dtype: "f32" | "bf16", T: number) =>
  dtype === "f32" ? /^cpu avx/.test(name) && T >= 256 : name === "cpu avx2" && T > 8 && !usesAmx(process.env);

forEachBackend((device, name) => {
  for (const dtype of ["f32", "bf16"] as const)
    for (const [outs, inputs] of shapes)
      for (const T of [...manyRows(device, 20), 3])
        test(`${dtype} [${outs}] × ${inputs}, T ${T}: as one matrix, or as the parts one by one`, () => {
          const p = problem(device, dtype, T, outs, inputs);
          const random = new Random(inputs);
          const whole = upload(
            device,
            dtype,
            [sum(outs), inputs],
            roundTo(dtype, random.floats(sum(outs) * inputs)),
          );
          const joined = Weight.dense(device, whole);
          // Parts that lie apart, in an order of their own.
          const apart = outs.map((n, i) => {
            const values = device.readFloats(whole.rows(rowsBefore(outs)[i]!, n));
            return Weight.dense(device, upload(device, dtype, [n, inputs], values));
          });
          const stack = Weight.stack(device, apart);
          expect([stack.out, stack.in, stack.dtype]).toEqual([sum(outs), inputs, dtype]);
          const got = resultsOf(device, p, [stack]);
          const exact = wanted(device, p, whole);
          for (const key of ["y", "wide", "dx", "added"] as const) {
            // dx is rounded once for each part at most.
            const allowed = key === "wide" ? tolerance.f32 : outs.length * tolerance[dtype];
            expectClose(device.readFloats(got[key]), exact[key], allowed, key);
          }
          const ways = [[joined], apart].map((weights) => bytesOf(device, resultsOf(device, p, weights)));
          expect(ways).toContainEqual(bytesOf(device, got));
          if (isOneSum(name, dtype, T)) expect(bytesOf(device, got)).toEqual(ways[0]!);
          if (T === 3) expect(bytesOf(device, got)).toEqual(ways[1]!);
          for (const rows of ["each", "tiled"] as const)
            expect(bytesOf(device, resultsOf(device, p, [stack], rows)).slice(0, 2), rows).toEqual(
              bytesOf(device, resultsOf(device, p, apart, rows)).slice(0, 2),
            );
          for (const weight of [stack, joined, ...apart]) weight.destroy();
        });

  for (const dtype of ["f32", "bf16"] as const)
    for (const [outs, inputs] of shapes)
      for (const T of [...manyRows(device, 20), 3])
        test(`${dtype} [${outs}] × ${inputs}, T ${T}: parts in NF4, and one that is not`, () => {
          const p = problem(device, dtype, T, outs, inputs);
          const scratch = poisoned(device, dtype, [Math.max(...outs) * inputs]);
          const [coded, plain]: [Weight[], Weight[]] = [[], []];
          for (const [i, out] of outs.entries()) {
            const nf4 = quantized(device, "bf16", out, inputs, true, i);
            plain.push(Weight.dense(device, valuesOn(device, nf4, dtype)));
            coded.push(i === 1 ? plain[1]! : Weight.nf4(device, nf4, scratch));
          }
          const stacks = [coded, plain].map((parts) => Weight.stack(device, parts));
          const [got, same] = stacks.map((stack) => resultsOf(device, p, [stack]));
          if (isOneSum(name, dtype, T)) expect(bytesOf(device, got!)).toEqual(bytesOf(device, same!));
          for (const key of ["y", "wide", "dx", "added"] as const) {
            const allowed = outs.length * tolerance[key === "wide" ? "f32" : dtype];
            expectClose(device.readFloats(got![key]), device.readFloats(same![key]), allowed, key);
          }
          for (const weight of new Set([...stacks, ...coded, ...plain])) weight.destroy();
        });

  for (const dtype of ["f32", "bf16"] as const)
    test(`${dtype}: in NF4, more threads than columns give the bits of two`, () => {
      if (!isOneSum(name, dtype, 300)) return;
      const run = (threads: number) => {
        const library = loadCpuLibrary({ ...process.env, NEFTUNE_CPU_ISA: name.split(" ")[1]! });
        const other = Device.open({ threads, library });
        const scratch = poisoned(other, dtype, [60 * 192]);
        const parts = [60, 37].map((out) =>
          Weight.nf4(other, quantized(other, "bf16", out, 192, true), scratch),
        );
        const results = (outs: number[], weight: Weight) =>
          bytesOf(other, resultsOf(other, problem(other, dtype, 300, outs, 192), [weight]));
        // One part after the other rounds dx in between.
        const all = [results([60], parts[0]!), results([60, 37], Weight.stack(other, parts)).slice(0, 2)];
        other.close();
        return all;
      };
      expect(run(12)).toEqual(run(2));
    });

  // Far more columns of u than a CPU adds to a product's sum, and than its plan for one has room for.
  for (const dtype of ["f32", "bf16"] as const)
    for (const T of manyRows(device, 20))
      test(`${dtype}, T ${T}: low-rank terms of thousands of columns are added part by part`, () => {
        const [outs, inputs, columns] = [[19, 41], 70, 3000 + rank];
        const random = new Random(T);
        const make = (rows: number, n: number) =>
          upload(device, dtype, [rows, n], roundTo(dtype, random.floats(rows * n)));
        const wide = { u: make(T, columns), a: make(columns, inputs) };
        const p = { ...problem(device, dtype, T, outs, inputs), ...wide };
        p.blocks = p.blocks.map((block) => ({ ...block, column: columns - rank }));
        const parts = outs.map((out) => Weight.dense(device, make(out, inputs)));
        const stack = Weight.stack(device, parts);
        const results = (weights: Weight[]) => {
          const dx = poisoned(device, dtype, [T, inputs]);
          const begins = rowsBefore(weights.map((weight) => weight.out));
          for (const [i, weight] of weights.entries()) {
            const low = i === 0 ? { left: p.u, right: p.a } : null;
            linearBackwardInput(device, dx, p.dy.columns(begins[i]!, weight.out), weight, low, i > 0);
          }
          return [resultsOf(device, p, weights).y, dx].map((tensor) => device.readBytes(tensor));
        };
        expect(results([stack])).toEqual(results(parts));
        for (const weight of [stack, ...parts]) weight.destroy();
      });

  test("parts that do not fit together, and losses, are refused", () => {
    const make = (dtype: "f32" | "bf16", out: number, inputs: number) =>
      Weight.dense(device, poisoned(device, dtype, [out, inputs]));
    const [one, wider, other, empty] = [
      make("f32", 4, 8),
      make("f32", 4, 9),
      make("bf16", 4, 8),
      make("f32", 0, 8),
    ];
    expect(() => Weight.stack(device, [one, wider])).toThrow(
      "weight_create_stack: part 1 has dtype 0 and 9 inputs, the first 0 and 8",
    );
    expect(() => Weight.stack(device, [one, other])).toThrow("part 1 has dtype 1 and 8 inputs");
    expect(() => Weight.stack(device, [one, empty])).toThrow("weight_create_stack: part 1 has no rows");
    const stack = Weight.stack(device, [one, one]);
    expect(() => Weight.stack(device, [stack])).toThrow("weight_create_stack: part 0 is a stack");
    const [losses, x, workspace] = [[2], [2, 8], [1 << 12]].map((shape) => poisoned(device, "f32", shape));
    const rows = Int32Array.of(0, 1);
    expect(() =>
      linearCrossEntropy(device, losses!, x!, stack, rows, rows, workspace!, {
        ...{ dx: null, dweight: null, scale: 1 },
      }),
    ).toThrow("linear_cross_entropy: the weight is a stack");
    for (const weight of [stack, one, wider, other, empty]) weight.destroy();
  });
});
