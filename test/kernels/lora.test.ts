import { expect, test } from "bun:test";
import {
  type LoraGradients,
  loraBackward,
  loraBackwardA,
  loraForward,
  type Tensor,
} from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { expectClose, Random, roundTo, slopes, tolerance } from "./numbers.ts";
import { dense, expectRowsAlone, product, transpose } from "./products.ts";

// [T, in or out, rank, elements between rows]; ranks past `in` appear when a caller multiplies g·A alone.
const shapes: [number, number, number, number][] = [
  [1, 1, 1, 3],
  [3, 17, 2, 2],
  [17, 65, 5, 3],
  [65, 129, 16, 1],
  [129, 64, 48, 3],
  [600, 33, 8, 5],
  [20, 8, 100, 3],
  // Multiples of 8: what a backend's vector and matrix instructions take; several tiles of each side.
  [100, 200, 8, 8],
  [70, 136, 72, 24],
  [1100, 72, 24, 8],
  [40, 72, 56, 8],
  [400, 24, 64, 8],
  // Multiples of 32, what AMX sums at once, with rows left over for less than a tile.
  [16, 32, 1, 2],
  [3, 64, 16, 0],
  [47, 96, 20, 8],
  [530, 64, 34, 2],
  // More columns of u than a CPU sums at once, and more rows and columns than it copies at once.
  [27, 40, 300, 4],
  [300, 330, 70, 2],
];
// [T, rank, widths of projections that read the same x].
const stacks: [number, number, number[]][] = [
  [33, 3, [5, 7, 2]],
  [70, 16, [200, 72, 72]],
  [600, 8, [136, 136]],
  [1100, 16, [40, 8, 24]],
  [40, 72, [16, 144]],
  [20, 8, Array<number>(11).fill(8)],
];
const scale = 0.75;

forEachBackend((device) => {
  for (const dtype of ["f32", "bf16"] as const) {
    const limit = dtype === "f32" ? tolerance.f32 : tolerance.bf16;
    for (const [T, wide, rank, gap] of shapes) {
      const random = new Random(T + wide);
      const make = (n: number) => roundTo(dtype, random.floats(n));
      const name = `${dtype}, T ${T}, ${wide}, rank ${rank}`;

      test(`lora_forward ${name}`, () => {
        const x = make(T * (wide + gap));
        const a = make(rank * wide);
        const xTensor = upload(device, dtype, [T, wide + gap], x).columns(0, wide);
        const aTensor = upload(device, dtype, [rank, wide], a);
        const wanted = product(
          dense(x, T, wide, wide + gap),
          transpose(dense(a, rank, wide)),
          new Float64Array(T * rank),
          scale,
        );
        const u = poisoned(device, dtype, [T, rank]);
        loraForward(device, u, xTensor, aTensor, scale);
        const once = device.readFloats(u);
        expectClose(once, wanted, limit, "u");
        loraForward(device, u, xTensor, aTensor, scale);
        expect(device.readFloats(u)).toEqual(once);
      });

      test(`lora_forward of rows that are each their own, ${name}`, () => {
        const [x, a] = [make(T * wide), make(rank * wide)];
        const aTensor = upload(device, dtype, [rank, wide], a);
        for (const kind of ["each", "tiled"] as const) {
          const rowsOf = (begin: number, n: number) => {
            const own = x.slice(begin * wide, (begin + n) * wide);
            const u = poisoned(device, dtype, [n, rank]);
            loraForward(device, u, upload(device, dtype, [n, wide], own), aTensor, scale, null, kind);
            return device.readFloats(u);
          };
          const all = rowsOf(0, T);
          const wanted = product(
            dense(x, T, wide),
            transpose(dense(a, rank, wide)),
            new Float64Array(T * rank),
            scale,
          );
          expectClose(all, wanted, limit, kind);
          const some = Math.ceil(T / 2);
          expectRowsAlone(
            all,
            rank,
            [
              [0, 1],
              [T - 1, 1],
              [T - some, some],
            ],
            rowsOf,
            kind,
          );
        }
      });

      for (const factor of [scale, 1]) {
        test(`lora_backward ${name}, scale ${factor}`, () => {
          const dy = make(T * (wide + gap));
          const u = make(T * (rank + gap));
          const b = make(wide * rank);
          const start = random.floats(wide * rank);
          const db = upload(device, "f32", [wide, rank], start);
          const dyTensor = upload(device, dtype, [T, wide + gap], dy).columns(0, wide);
          const uTensor = upload(device, dtype, [T, rank + gap], u).columns(0, rank);
          const bTensor = upload(device, dtype, [wide, rank], b);
          const g = poisoned(device, dtype, [T, rank + gap]);
          const run = (gradient: Tensor | null) => {
            const target = { b: bTensor, db: gradient, row: 0, column: 0 };
            const left = gradient === null ? null : uTensor;
            loraBackward(device, g.columns(0, rank), dyTensor, left, [target], factor);
          };
          run(db);
          const whole = device.readFloats(g);
          const bytes = device.readBytes(g);
          const got = new Float32Array(T * rank);
          whole.forEach((value, i) => {
            const [row, column] = [Math.floor(i / (rank + gap)), i % (rank + gap)];
            if (column < rank) got[row * rank + column] = value;
            else expect(value, `g[${row}, ${column}] lies past the row`).toBeNaN();
          });
          const dyView = dense(dy, T, wide, wide + gap);
          expectClose(
            got,
            product(dyView, dense(b, wide, rank), new Float64Array(T * rank), factor),
            limit,
            "g",
          );
          const wanted = product(transpose(dyView), dense(u, T, rank, rank + gap), start);
          expectClose(device.readFloats(db), wanted, 2e-6, "db");

          const before = device.readFloats(db);
          run(null);
          expect(device.readBytes(g)).toEqual(bytes);
          expect(device.readFloats(db)).toEqual(before);
        });
      }

      test(`lora_backward_a ${name}`, () => {
        const x = make(T * (wide + gap));
        const g = make(T * rank);
        const start = random.floats(rank * wide);
        const run = () => {
          const da = upload(device, "f32", [rank, wide], start);
          const xTensor = upload(device, dtype, [T, wide + gap], x).columns(0, wide);
          loraBackwardA(device, da, upload(device, dtype, [T, rank], g), xTensor);
          return device.readFloats(da);
        };
        const got = run();
        const wanted = product(transpose(dense(g, T, rank)), dense(x, T, wide, wide + gap), start);
        expectClose(got, wanted, 2e-6, "da");
        expect(run()).toEqual(got);
      });
    }
  }

  for (const dtype of ["f32", "bf16"] as const) {
    for (const [T, rank, stack] of stacks)
      test(`${dtype} lora_backward, T ${T}, rank ${rank}, projections of ${stack}: each has its own columns`, () => {
        const random = new Random(T);
        const make = (n: number) => roundTo(dtype, random.floats(n));
        const R = rank * stack.length;
        const out = stack.reduce((sum, rows) => sum + rows, 0);
        const [dy, u] = [make(T * (out + 8)), make(T * R)];
        const dyTensor = upload(device, dtype, [T, out + 8], dy).columns(0, out);
        const uTensor = upload(device, dtype, [T, R], u);
        const parts = stack.map((rows, i) => {
          const row = stack.slice(0, i).reduce((sum, before) => sum + before, 0);
          // Their order in u is another than in dy; every third has a B that is not trained.
          const column = rank * (stack.length - 1 - i);
          const start = random.floats(rows * rank);
          return { rows, row, column, b: make(rows * rank), start: i % 3 === 2 ? null : start };
        });
        const targets = parts.map(
          ({ rows, row, column, b, start }): LoraGradients => ({
            b: upload(device, dtype, [rows, rank], b),
            db: start && upload(device, "f32", [rows, rank], start),
            row,
            column,
          }),
        );
        const run = () => {
          for (const [i, { start }] of parts.entries())
            if (start !== null) device.writeFloats(targets[i]!.db!, start);
          const g = poisoned(device, dtype, [T, R]);
          loraBackward(device, g, dyTensor, uTensor, targets, scale);
          return [g, ...targets.flatMap(({ db }) => db ?? [])].map((tensor) => device.readFloats(tensor));
        };
        const [g, ...gradients] = run();
        const columns = (values: Float32Array, width: number, begin: number, count: number) =>
          Float32Array.from({ length: T * count }, (_, i) => {
            return values[Math.floor(i / count) * width + begin + (i % count)]!;
          });
        for (const { rows, row, column, b, start } of parts) {
          const own = dense(columns(dy, out + 8, row, rows), T, rows);
          const wanted = product(own, dense(b, rows, rank), new Float64Array(T * rank), scale);
          expectClose(
            columns(g!, R, column, rank),
            wanted,
            dtype === "f32" ? tolerance.f32 : tolerance.bf16,
            "g",
          );
          if (start === null) continue;
          const left = dense(columns(u, R, column, rank), T, rank);
          expectClose(gradients.shift()!, product(transpose(own), left, start), 2e-6, "db");
        }
        expect(run()).toEqual(run());
      });
  }

  for (const dtype of ["f32", "bf16"] as const)
    test(`${dtype}: rows behind the last are not read`, () => {
      const [T, inputs, out, rank] = [37, 40, 24, 16];
      const random = new Random(T);
      const make = (columns: number) => {
        const values = roundTo(dtype, random.floats((T + 3) * columns)).fill(Number.NaN, T * columns);
        return upload(device, dtype, [T + 3, columns], values).rows(0, T);
      };
      const [x, dy, u] = [make(inputs), make(out), make(rank)];
      const [a, b] = [make(inputs).rows(0, rank), make(rank).rows(0, out)];
      const [down, g] = [poisoned(device, dtype, [T, rank]), poisoned(device, dtype, [T, rank])];
      const [da, db] = [rank * inputs, out * rank].map((n) =>
        upload(device, "f32", [n], new Float32Array(n)),
      );
      loraForward(device, down, x, a, scale);
      const target = { b, db: db!.reshape([out, rank]), row: 0, column: 0 };
      loraBackward(device, g, dy, u, [target], scale);
      loraBackwardA(device, da!.reshape([rank, inputs]), g, x);
      for (const tensor of [down, g, da!, db!])
        expect(device.readFloats(tensor).some(Number.isNaN)).toBe(false);
    });

  test("the gradients of A and B are those of B·(A·x), numerically", () => {
    const [T, inputs, out, rank] = [4, 6, 5, 3];
    const random = new Random(3);
    const [x, a, b, dy] = [T * inputs, rank * inputs, out * rank, T * out].map((n) => random.floats(n));
    // The loss Σ dy ∘ (s·x·Aᵀ·Bᵀ) in float64.
    const loss = (as: ArrayLike<number>, bs: ArrayLike<number>) => {
      const u = product(
        dense(x!, T, inputs),
        transpose(dense(as, rank, inputs)),
        new Float64Array(T * rank),
        scale,
      );
      const y = product(dense(u, T, rank), transpose(dense(bs, out, rank)));
      return y.reduce((sum, value, i) => sum + value * dy![i]!, 0);
    };
    const [xTensor, aTensor, bTensor, dyTensor] = [
      upload(device, "f32", [T, inputs], x!),
      upload(device, "f32", [rank, inputs], a!),
      upload(device, "f32", [out, rank], b!),
      upload(device, "f32", [T, out], dy!),
    ];
    const [u, g] = [poisoned(device, "f32", [T, rank]), poisoned(device, "f32", [T, rank])];
    const da = upload(device, "f32", [rank, inputs], new Float32Array(rank * inputs));
    const db = upload(device, "f32", [out, rank], new Float32Array(out * rank));
    loraForward(device, u, xTensor, aTensor, scale);
    loraBackward(device, g, dyTensor, u, [{ b: bTensor, db, row: 0, column: 0 }], scale);
    loraBackwardA(device, da, g, xTensor);
    expectClose(
      device.readFloats(da),
      slopes(Float64Array.from(a!), (changed) => loss(changed, b!), 1e-4),
      1e-5,
      "da",
    );
    expectClose(
      device.readFloats(db),
      slopes(Float64Array.from(b!), (changed) => loss(a!, changed), 1e-4),
      1e-5,
      "db",
    );
  });

  test("zero sizes write nothing, invalid arguments are refused", () => {
    const x = poisoned(device, "f32", [2, 3]);
    const out = poisoned(device, "f32", [2, 3]);
    loraForward(device, out.rows(0, 0).reshape([0, 2]), x.rows(0, 0), x, 1);
    loraBackwardA(device, out, x.rows(0, 0).reshape([0, 2]), x.rows(0, 0));
    for (const value of device.readFloats(out)) expect(value).toBeNaN();
    const forward = (dtype: number, ldx: number, T: number, u: number | null) =>
      device.call("nt_lora_forward", dtype, u, null, 0, x.ptr, ldx, x.ptr, 1, T, 2, 3, 0);
    expect(() => forward(2, 3, 1, out.ptr)).toThrow("dtype must be f32 or bf16, got 2");
    expect(() => forward(0, 2, 1, out.ptr)).toThrow("3 elements and do not fit into distance 2");
    expect(() => forward(0, 3, -4, out.ptr)).toThrow("T -4");
    expect(() => forward(0, 3, 1, null)).toThrow("null");
    const backward = (
      ldg: number,
      u: number | null,
      words: number[] = [x.ptr, out.ptr, 0, 3, 0],
      rank = 2,
    ) => {
      const targets = new BigInt64Array(words.map(BigInt));
      device.call("nt_lora_backward", 0, out.ptr, ldg, x.ptr, 3, u, 2, targets, words.length / 5, rank, 1, 1);
    };
    expect(() => backward(1, x.ptr)).toThrow("target 0's columns 0 + 3 and 0 + 2 do not fit");
    expect(() => backward(2, null)).toThrow("dB needs u");
    expect(() => backward(2, null, [x.ptr, 0, 1, 3, 0])).toThrow("1 + 3 and 0 + 2 do not fit");
    expect(() => backward(4, x.ptr, [x.ptr, out.ptr, 0, 3, 1])).toThrow("0 + 3 and 1 + 2 do not fit");
    expect(() => backward(4, x.ptr, [x.ptr, out.ptr, 0, 3, -1])).toThrow("got row 0, rows 3, column -1");
    expect(() => backward(2, x.ptr, [x.ptr, 0, 0, 1, 0, 0, 0, 1, 1, 0])).toThrow("target 1 has no B");
    expect(() => backward(2, x.ptr, [], -1)).toThrow("rank -1");
    backward(2, x.ptr, []);
    backward(2, x.ptr, [x.ptr, out.ptr, 0, 0, 0]);
    for (const value of device.readFloats(out)) expect(value).toBeNaN();
    const backwardA = (ldx: number, T: number) =>
      device.call("nt_lora_backward_a", 0, out.ptr, x.ptr, 2, x.ptr, ldx, T, 2, 3);
    expect(() => backwardA(1, 1)).toThrow("do not fit");
    expect(() => backwardA(3, -1)).toThrow("T -1");
  });
});
