import { expect, test } from "bun:test";
import {
  Device,
  type LoraBlock,
  linearBackwardInput,
  linearBackwardWeight,
  linearForward,
  NativeError,
  Tensor,
  Weight,
} from "../../src/native/index.ts";
import { forEachBackend, manyRows, poisoned, upload } from "./harness.ts";
import { linearReference, lowRankOf, readWindow, window } from "./linear-reference.ts";
import { expectClose, Random, roundTo, slopes, tolerance } from "./numbers.ts";
import { dense, plus, product, transpose } from "./products.ts";

// [T, in, out, rank]
const shapes: [number, number, number, number][] = [
  [1, 1, 1, 1],
  [3, 17, 5, 2],
  [17, 65, 129, 3],
  [65, 33, 64, 16],
  [129, 96, 65, 9],
  [40, 200, 100, 0],
  // Multiples of 8: what a backend's vector and matrix instructions take.
  [150, 40, 296, 8],
  [37, 264, 72, 40],
  [20, 24, 32, 72],
  [30, 16, 40, 24],
  // Few rows, which read the weight once.
  [1, 2056, 30, 0],
  [2, 64, 33, 8],
  [7, 1032, 9, 3],
  [8, 72, 17, 16],
];
// Rows of projections stacked in one weight; [n, false] has no low-rank term.
const stacks: [number, boolean][][] = [
  [
    [24, true],
    [7, false],
    [16, true],
  ],
  [[8, false], [24, true], [16, false], [136, true], ...Array(8).fill([8, true]), [40, false]],
];
const dtypes = ["f32", "bf16"] as const;

forEachBackend((device) => {
  for (const dtype of dtypes) {
    const limit = dtype === "f32" ? tolerance.f32 : tolerance.bf16;

    for (const [T, inputs, out, rank] of shapes) {
      const random = new Random(T * 1000 + inputs);
      const make = (n: number, scale = 1) => roundTo(dtype, random.floats(n, scale));
      const x = make(T * inputs);
      const w = make(out * inputs);
      const dy = make(T * out);
      const u = make(T * rank);
      const b = make(out * rank);
      const a = make(rank * inputs);
      const bias = random.floats(out);
      const wanted = linearReference({ T, inputs, out, rank }, x, w, bias, u, b);
      const wantedDx = plus(
        product(dense(dy, T, out), dense(w, out, inputs)),
        product(dense(u, T, rank), dense(a, rank, inputs)),
      );

      test(`${dtype} forward and backward, T ${T}, ${inputs} → ${out}, rank ${rank}`, () => {
        const data = upload(device, dtype, [out, inputs], w);
        const low = (right: Float32Array, shape: number[]) =>
          rank === 0
            ? null
            : { left: upload(device, dtype, [T, rank], u), right: upload(device, dtype, shape, right) };
        const whole = lowRankOf(device, dtype, u, b, T, out, rank);
        // Dense rows and rows further apart take different paths through oneDNN.
        for (const gap of [0, 3]) {
          const weight = Weight.dense(device, data);
          const y = window(device, dtype, T, out, gap);
          const run = () =>
            linearForward(
              device,
              y,
              upload(device, dtype, [T, inputs], x),
              weight,
              upload(device, "f32", [out], bias),
              whole,
            );
          run();
          const got = readWindow(device, y);
          expectClose(got, wanted, limit, "y");
          run();
          expect(readWindow(device, y)).toEqual(got);

          const dx = window(device, dtype, T, inputs, 2 * gap);
          const dyTensor = upload(device, dtype, [T, out], dy);
          linearBackwardInput(device, dx, dyTensor, weight, low(a, [rank, inputs]));
          const once = readWindow(device, dx);
          expectClose(once, wantedDx, limit, "dx");
          linearBackwardInput(device, dx, dyTensor, weight, low(a, [rank, inputs]), true);
          expectClose(
            readWindow(device, dx),
            Float64Array.from(wantedDx, (v) => 2 * v),
            limit * 1.5,
            "dx added",
          );
          weight.destroy();
        }
      });

      test(`${dtype} backward_weight, T ${T}, ${inputs} → ${out}`, () => {
        const start = random.floats(out * inputs);
        const startBias = random.floats(out);
        const dweight = upload(device, "f32", [out, inputs], start);
        const dbias = upload(device, "f32", [out], startBias);
        const dyTensor = upload(device, dtype, [T, out], dy);
        const xTensor = upload(device, dtype, [T, inputs], x);
        linearBackwardWeight(device, dweight, dbias, dyTensor, xTensor);
        const ones = dense(new Float32Array(T).fill(1), 1, T);
        expectClose(
          device.readFloats(dweight),
          product(transpose(dense(dy, T, out)), dense(x, T, inputs), start),
          2e-6,
          "dweight",
        );
        expectClose(device.readFloats(dbias), product(ones, dense(dy, T, out), startBias), 2e-6, "dbias");
        linearBackwardWeight(device, dweight, null, dyTensor, xTensor);
        expectClose(
          device.readFloats(dbias),
          product(ones, dense(dy, T, out), startBias),
          2e-6,
          "dbias kept",
        );
      });
    }
  }

  for (const dtype of dtypes) {
    for (const [stack, T] of stacks.flatMap((rows) => manyRows(device, 33).map((T) => [rows, T] as const)))
      test(`${dtype} ${stack.length} stacked projections, T ${T}: each has its own B, or none`, () => {
        const [inputs, rank] = [40, 8];
        const out = stack.reduce((sum, [rows]) => sum + rows, 0);
        const R = rank * stack.filter(([, has]) => has).length;
        const random = new Random(19);
        const draw = (n: number) => roundTo(dtype, random.floats(n));
        const [x, w, u] = [T * inputs, out * inputs, T * R].map(draw);
        const bias = random.floats(out);
        const whole = new Float64Array(out * R); // block-diagonal
        const blocks: LoraBlock[] = [];
        let row = 0;
        for (const [rows, has] of stack) {
          if (has) {
            const column = rank * blocks.length;
            const b = draw(rows * rank);
            b.forEach((value, i) => {
              whole[(row + Math.floor(i / rank)) * R + column + (i % rank)] = value;
            });
            blocks.push({ b: upload(device, dtype, [rows, rank], b), row, column });
          }
          row += rows;
        }
        const wanted = product(
          dense(u!, T, R),
          transpose(dense(whole, out, R)),
          product(
            dense(x!, T, inputs),
            transpose(dense(w!, out, inputs)),
            Float64Array.from({ length: T * out }, (_, i) => bias[i % out]!),
          ),
        );
        const weight = Weight.dense(device, upload(device, dtype, [out, inputs], w!));
        const lora = { u: upload(device, dtype, [T, R], u!), blocks };
        const biases = upload(device, "f32", [out], bias);
        const xs = upload(device, dtype, [T, inputs], x!);
        for (const gap of [0, 1]) {
          const y = window(device, dtype, T, out, gap);
          linearForward(device, y, xs, weight, biases, lora);
          expectClose(readWindow(device, y), wanted, tolerance[dtype], "y");
        }
        const y = window(device, dtype, T, out, 1);
        const overlapping = { ...lora, blocks: [blocks[0]!, { ...blocks[1]!, row: blocks[0]!.row + 20 }] };
        expect(() => linearForward(device, y, xs, weight, biases, overlapping)).toThrow(/overlaps/);
        const outside = { ...lora, blocks: [{ ...blocks[0]!, column: R - rank + 1 }] };
        expect(() => linearForward(device, y, xs, weight, biases, outside)).toThrow(/row distance/);
        weight.destroy();
      });
  }

  test("the gradients are those of forward, numerically", () => {
    const [T, inputs, out, rank] = [3, 5, 4, 2];
    const random = new Random(5);
    const [x, w, u, b, dy] = [T * inputs, out * inputs, T * rank, out * rank, T * out].map((n) =>
      random.floats(n),
    );
    const loss = (xs: Float32Array, ws: Float32Array) => {
      const weight = Weight.dense(device, upload(device, "f32", [out, inputs], ws));
      const y = poisoned(device, "f32", [T, out]);
      const low = lowRankOf(device, "f32", u!, b!, T, out, rank);
      linearForward(device, y, upload(device, "f32", [T, inputs], xs), weight, null, low);
      weight.destroy();
      return device.readFloats(y).reduce((sum, value, i) => sum + value * dy![i]!, 0);
    };
    const eps = 1 / 64; // the loss is linear in each argument: any step is exact but for rounding
    const dyTensor = upload(device, "f32", [T, out], dy!);
    const weight = Weight.dense(device, upload(device, "f32", [out, inputs], w!));
    const dx = poisoned(device, "f32", [T, inputs]);
    linearBackwardInput(device, dx, dyTensor, weight);
    expectClose(
      device.readFloats(dx),
      slopes(x!, (changed) => loss(changed, w!), eps),
      1e-4,
      "dx",
    );
    const dweight = upload(device, "f32", [out, inputs], new Float32Array(out * inputs));
    linearBackwardWeight(device, dweight, null, dyTensor, upload(device, "f32", [T, inputs], x!));
    expectClose(
      device.readFloats(dweight),
      slopes(w!, (changed) => loss(x!, changed), eps),
      1e-4,
      "dweight",
    );
    weight.destroy();
  });

  test.each([
    [9, 70, 33, 4],
    [20, 72, 40, 16],
  ])("bf16 in, float32 out keeps float32's digits: T %d, %d → %d, rank %d", (T, inputs, out, rank) => {
    const random = new Random(6);
    const [x, w, u, b] = [T * inputs, out * inputs, T * rank, out * rank].map((n) =>
      roundTo("bf16", random.floats(n)),
    );
    const weight = Weight.dense(device, upload(device, "bf16", [out, inputs], w!));
    const y = poisoned(device, "f32", [T, out]);
    const low = lowRankOf(device, "bf16", u!, b!, T, out, rank);
    linearForward(device, y, upload(device, "bf16", [T, inputs], x!), weight, null, low);
    const wanted = plus(
      product(dense(x!, T, inputs), transpose(dense(w!, out, inputs))),
      product(dense(u!, T, rank), transpose(dense(b!, out, rank))),
    );
    expectClose(device.readFloats(y), wanted, tolerance.f32, "y");
    weight.destroy();
  });

  test("changed data is read anew, at many batch sizes", () => {
    const [inputs, out] = [64, 48];
    const random = new Random(7);
    const data = upload(device, "f32", [out, inputs], random.floats(out * inputs));
    const weight = Weight.dense(device, data);
    const w = random.floats(out * inputs);
    device.writeFloats(data, w);
    const x = random.floats(300 * inputs);
    const xTensor = upload(device, "f32", [300, inputs], x);
    const wanted = product(dense(x, 300, inputs), transpose(dense(w, out, inputs)));
    for (let T = 1; T <= 300; T++) {
      const y = poisoned(device, "f32", [T, out]);
      linearForward(device, y, xTensor.rows(0, T), weight, null);
      expectClose(device.readFloats(y), wanted.subarray(0, T * out), tolerance.f32, `y at T ${T}`);
      device.free(y.ptr);
    }
    weight.destroy();
  });

  test("data at an odd multiple of two bytes, as in a mapped file", () => {
    const [T, inputs, out] = [10, 48, 40];
    const random = new Random(8);
    const [x, w] = [T * inputs, out * inputs].map((n) => roundTo("bf16", random.floats(n)));
    const shifted = device.allocate("bf16", [out * inputs + 1]);
    device.writeFloats(shifted, Float32Array.from([0, ...w!]));
    const weight = Weight.dense(device, new Tensor(shifted.ptr + 2, "bf16", [out, inputs]));
    const y = poisoned(device, "bf16", [T, out]);
    linearForward(device, y, upload(device, "bf16", [T, inputs], x!), weight, null);
    const wanted = product(dense(x!, T, inputs), transpose(dense(w!, out, inputs)));
    expectClose(device.readFloats(y), wanted, tolerance.bf16, "y");
    weight.destroy();
  });

  test("no tokens: nothing is written", () => {
    const weight = Weight.dense(device, upload(device, "f32", [2, 2], new Float32Array(4)));
    const y = poisoned(device, "f32", [2, 2]);
    linearForward(device, y.rows(0, 0), y.rows(0, 0), weight, null);
    linearBackwardInput(device, y.rows(0, 0), y.rows(0, 0), weight);
    linearBackwardWeight(device, y, null, y.rows(0, 0), y.rows(0, 0));
    for (const value of device.readFloats(y)) expect(value).toBeNaN();
    weight.destroy();
  });

  test("invalid arguments are refused with what came", () => {
    const data = upload(device, "f32", [4, 3], new Float32Array(12));
    const weight = Weight.dense(device, data);
    const call = (dtype: number, T: number, ldx: number, x: number | null, blocks = 0) =>
      device.call(
        "nt_linear_forward",
        ...[dtype, data.ptr, dtype, 4, x, ldx, weight.handle, null, null, 2, null, blocks, 2, T, 0],
      );
    expect(() => call(2, 1, 3, data.ptr)).toThrow("dtype must be f32 or bf16, got 2");
    expect(() => call(1, 1, 3, data.ptr)).toThrow("the weight 0");
    expect(() => call(0, -1, 3, data.ptr)).toThrow("got -1");
    expect(() => call(0, 1, 2, data.ptr)).toThrow("do not fit");
    expect(() => call(0, 1, 3, null)).toThrow("null");
    expect(() => call(0, 1, 3, data.ptr, 1)).toThrow("1 LoRA blocks of rank 2 need u and B");
    expect(() => device.call("nt_weight_create", 0, 4, -3, data.ptr, 3, new BigUint64Array(1))).toThrow(
      NativeError,
    );
    weight.destroy();
  });
});

test("on a CPU, large products are right, and the same to the bit for every number of threads", () => {
  // More than its own product sums, or packs, at a time.
  const [T, inputs, out, rank] = [140, 3110, 2690, 35];
  // bf16 holds these as they are.
  const make = (n: number, step: number) =>
    new Float32Array(n).map((_, i) => (((i % 9973) * step + i) % 127) / 64 - 1);
  const [x, dy, w] = [make(T * inputs, 3), make(T * out, 5), make(out * inputs, 7)];
  const [u, b, a] = [make(T * rank, 11), make(out * rank, 13), make(rank * inputs, 17)];
  const results = [1, 2, 3].map((threads) => {
    const device = Device.open({ threads });
    const weight = Weight.dense(device, upload(device, "bf16", [out, inputs], w));
    const [y, dx] = [device.allocate("bf16", [T, out]), device.allocate("bf16", [T, inputs])];
    const low = lowRankOf(device, "bf16", u, b, T, out, rank);
    linearForward(device, y, upload(device, "bf16", [T, inputs], x), weight, null, low);
    const left = upload(device, "bf16", [T, rank], u);
    const right = upload(device, "bf16", [rank, inputs], a);
    linearBackwardInput(device, dx, upload(device, "bf16", [T, out], dy), weight, { left, right });
    const got = [device.readFloats(y), device.readFloats(dx)] as const;
    device.close();
    return got;
  });
  const [y, dx] = results[0]!;
  const columns = (all: number) => Array.from({ length: 30 }, (_, i) => (i * 977) % all);
  const sum = (n: number, term: (k: number) => number) => {
    let total = 0;
    for (let k = 0; k < n; k++) total += term(k);
    return total;
  };
  const sampled = (values: Float32Array, all: number) =>
    columns(all).map((j, i) => values[((i * 7) % T) * all + j]!);
  const wanted = columns(out).map((j, i) => {
    const t = (i * 7) % T;
    return (
      sum(inputs, (k) => x[t * inputs + k]! * w[j * inputs + k]!) +
      sum(rank, (k) => u[t * rank + k]! * b[j * rank + k]!)
    );
  });
  const wantedDx = columns(inputs).map((j, i) => {
    const t = (i * 7) % T;
    return (
      sum(out, (k) => dy[t * out + k]! * w[k * inputs + j]!) +
      sum(rank, (k) => u[t * rank + k]! * a[k * inputs + j]!)
    );
  });
  expectClose(Float32Array.from(sampled(y, out)), wanted, tolerance.bf16, "y");
  expectClose(Float32Array.from(sampled(dx, inputs)), wantedDx, tolerance.bf16, "dx");
  for (const other of results.slice(1)) expect(other).toEqual(results[0]!);
});
