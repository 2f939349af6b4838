import { expect, test } from "bun:test";
import {
  type Device,
  linearBackwardInput,
  linearCrossEntropy,
  linearForward,
  type Nf4,
  Tensor,
  Weight,
} from "../../src/native/index.ts";
import { forEachBackend, manyRows, poisoned, upload } from "./harness.ts";
import { quantized, storedDtypes, valuesOn } from "./nf4-reference.ts";
import { expectClose, Random, roundTo, tolerance } from "./numbers.ts";
import { dense, expectRowsAlone, product, transpose } from "./products.ts";

// [T, in, out]
const shapes: [number, number, number][] = [
  [1, 1, 1],
  [3, 17, 5], // odd rows: every second one begins in the middle of a byte
  [33, 65, 31],
  [20, 176, 40], // rows cross blocks at multiples of 16
  [9, 48, 24],
  [7, 30, 21],
  [40, 128, 96],
  [5, 264, 72],
  [1, 1030, 37],
];

/** On a CPU, for the smallest shape: more rows than a product takes together. */
const manyParts = (device: Device, [out, inputs]: readonly [number, number]) =>
  device.isHost && out * inputs === 31 * 65 ? [4100] : [];

forEachBackend((device) => {
  for (const dtype of ["f32", "bf16"] as const)
    for (const [T, inputs, out] of shapes)
      test(`${dtype} forward and backward, T ${T}, ${inputs} → ${out}`, () => {
        const random = new Random(T + inputs);
        const make = (n: number) => roundTo(dtype, random.floats(n));
        const [x, dy, u, b, a] = [T * inputs, T * out, T * 8, out * 8, 8 * inputs].map(make);
        const bias = upload(device, "f32", [out], random.floats(out));
        const scratch = poisoned(device, dtype, [out * inputs + 5]);
        const xs = upload(device, dtype, [T, inputs], x!);
        const dys = upload(device, dtype, [T, out], dy!);
        const lora = {
          u: upload(device, dtype, [T, 8], u!),
          blocks: [{ b: upload(device, dtype, [out, 8], b!), row: 0, column: 0 }],
        };
        const low = { left: lora.u, right: upload(device, dtype, [8, inputs], a!) };
        for (const stored of storedDtypes)
          for (const double of [false, true]) {
            const nf4 = quantized(device, stored, out, inputs, double);
            const w = valuesOn(device, nf4, dtype);
            const weight = Weight.nf4(device, nf4, scratch);
            const plain = Weight.dense(device, w);
            for (const [withBias, withLora] of [
              [null, null],
              [bias, lora],
            ] as const) {
              const [y, wanted] = [poisoned(device, dtype, [T, out]), poisoned(device, dtype, [T, out])];
              linearForward(device, y, xs, weight, withBias, withLora);
              linearForward(device, wanted, xs, plain, withBias, withLora);
              const got = device.readFloats(y);
              expectClose(got, device.readFloats(wanted), tolerance[dtype], `y, ${stored}, double ${double}`);
              linearForward(device, y, xs, weight, withBias, withLora);
              expect(device.readFloats(y), "the same again").toEqual(got);
            }
            const exact = product(dense(x!, T, inputs), transpose(dense(device.readFloats(w), out, inputs)));
            const y = poisoned(device, "f32", [T, out]);
            linearForward(device, y, xs, weight, null);
            expectClose(device.readFloats(y), exact, tolerance.f32, `float32 y, ${stored}, double ${double}`);

            const [dx, wantedDx] = [
              poisoned(device, dtype, [T, inputs]),
              poisoned(device, dtype, [T, inputs]),
            ];
            for (const accumulate of [false, true]) {
              linearBackwardInput(device, dx, dys, weight, low, accumulate);
              linearBackwardInput(device, wantedDx, dys, plain, low, accumulate);
              expectClose(device.readFloats(dx), device.readFloats(wantedDx), tolerance[dtype], "dx");
            }
            for (const value of device.readFloats(new Tensor(scratch.ptr, dtype, [scratch.size])).slice(-5))
              expect(value, "scratch is written past the weight's size").toBeNaN();
            weight.destroy();
            plain.destroy();
            for (const tensor of [w, y, dx, wantedDx, nf4.codes, nf4.absmax]) device.free(tensor.ptr);
          }
      });

  // Sizes at which a backend may have a layout of its own for the values, and others: rows that begin within a block or
  // a byte, sums in several parts, more rows than are taken together.
  for (const dtype of ["f32", "bf16"] as const)
    for (const [out, inputs, T] of (
      [
        [128, 64],
        [64, 192],
        [96, 128],
        [320, 256],
        [48, 320],
        [31, 65],
        [90, 700],
        [700, 90],
        [130, 264],
      ] as const
    ).flatMap((shape) =>
      [...manyRows(device, 20), ...manyParts(device, shape)].map((T) => [...shape, T] as const),
    ))
      test(`${dtype} [${out}, ${inputs}], T ${T}: products are those of a dense weight of the same values, to the bit`, () => {
        const random = new Random(out);
        const make = (columns: number) =>
          upload(device, dtype, [T, columns], roundTo(dtype, random.floats(T * columns)));
        const [x, dy, u] = [make(inputs), make(out), make(4)];
        const b = upload(device, dtype, [out, 4], roundTo(dtype, random.floats(out * 4)));
        const bias = upload(device, "f32", [out], random.floats(out));
        const scratch = poisoned(device, dtype, [out * inputs]);
        for (const stored of storedDtypes) {
          const nf4 = quantized(device, stored, out, inputs, true);
          const weight = Weight.nf4(device, nf4, scratch);
          const values = valuesOn(device, nf4, dtype);
          const plain = Weight.dense(device, values);
          const results = [weight, plain].map((one) => {
            const [y, wide, dx] = [
              poisoned(device, dtype, [T, out]),
              poisoned(device, "f32", [T, out + 3]),
              poisoned(device, dtype, [T, inputs]),
            ];
            linearForward(device, y, x, one, bias, { u, blocks: [{ b, row: 0, column: 0 }] });
            linearForward(device, wide.columns(0, out), x, one, null);
            linearBackwardInput(device, dx, dy, one);
            linearBackwardInput(device, dx, dy, one, null, true);
            return [y, wide, dx].map((tensor) => device.readBytes(tensor));
          });
          expect(results[0], stored).toEqual(results[1]!);
          weight.destroy();
          plain.destroy();
        }
      });

  for (const dtype of ["f32", "bf16"] as const)
    test(`${dtype}: few rows from the codes and many from scratch agree, also in views`, () => {
      const [inputs, out, most, gap] = [320, 72, 12, 3];
      const nf4 = quantized(device, "bf16", out, inputs, true);
      const weight = Weight.nf4(device, nf4, poisoned(device, dtype, [out * inputs]));
      const x = roundTo(dtype, new Random(1).floats(most * inputs));
      const wanted = product(
        dense(x, most, inputs),
        transpose(dense(device.readFloats(valuesOn(device, nf4, dtype)), out, inputs)),
      );
      const apart = poisoned(device, dtype, [most, inputs + gap]);
      const padded = new Float32Array(apart.size).fill(NaN);
      for (let t = 0; t < most; t++) padded.set(x.subarray(t * inputs, (t + 1) * inputs), t * (inputs + gap));
      device.writeFloats(apart, padded);
      for (let T = 1; T <= most; T++) {
        const y = poisoned(device, "f32", [T, out + gap]);
        linearForward(device, y.columns(0, out), apart.columns(0, inputs).rows(0, T), weight, null);
        const all = device.readFloats(y);
        for (let t = 0; t < T; t++) {
          const row = all.subarray(t * (out + gap), (t + 1) * (out + gap));
          expectClose(row.subarray(0, out), wanted.subarray(t * out, (t + 1) * out), tolerance.f32, `T ${T}`);
          for (const value of row.subarray(out)) expect(value, "written past a row's end").toBeNaN();
        }
      }
      weight.destroy();
    });

  for (const dtype of ["f32", "bf16"] as const)
    test(`${dtype}: rows taken each, or in tiles, are the same to the bit however many there are`, () => {
      const [T, gap] = [270, 3];
      for (const [inputs, out] of [
        [320, 72],
        [528, 64],
      ] as const) {
        const nf4 = quantized(device, "bf16", out, inputs, true);
        const weight = Weight.nf4(device, nf4, poisoned(device, dtype, [out * inputs]));
        const values = roundTo(dtype, new Random(2).floats(T * inputs));
        const x = upload(device, dtype, [T, inputs], values);
        const wanted = product(
          dense(values, T, inputs),
          transpose(dense(device.readFloats(valuesOn(device, nf4, dtype)), out, inputs)),
        );
        for (const kind of ["each", "tiled"] as const)
          for (const apart of [0, gap]) {
            const rowsOf = (begin: number, n: number) => {
              const y = poisoned(device, "f32", [n, out + apart]);
              linearForward(device, y.columns(0, out), x.rows(begin, n), weight, null, null, kind);
              const all = device.readFloats(y);
              return all.filter((_, i) => i % (out + apart) < out);
            };
            const all = rowsOf(0, T);
            expectClose(all, wanted, tolerance.f32, kind);
            const parts = [
              [0, 1],
              [268, 2],
              [5, 9],
              [40, 64],
              [2, 131],
              [3, 260],
            ] as const;
            expectRowsAlone(all, out, parts, rowsOf, kind);
          }
        weight.destroy();
      }
    });

  test("several weights share one scratch, and the loss reads one too", () => {
    const [T, hidden, vocab] = [10, 96, 130];
    const random = new Random(9);
    const scratch = poisoned(device, "f32", [vocab * hidden]);
    const x = upload(device, "f32", [T, hidden], random.floats(T * hidden));
    const first = quantized(device, "f32", 64, hidden, true);
    const head = quantized(device, "f16", vocab, hidden, false);
    const results = [true, false].map((coded) => {
      const make = (nf4: Nf4) =>
        coded ? Weight.nf4(device, nf4, scratch) : Weight.dense(device, valuesOn(device, nf4, "f32"));
      const [one, two] = [make(first), make(head)];
      const [y, losses, dx] = [
        poisoned(device, "f32", [T, 64]),
        poisoned(device, "f32", [T]),
        poisoned(device, "f32", [T, hidden]),
      ];
      linearForward(device, y, x, one, null);
      const rows = Int32Array.from({ length: T }, (_, t) => t);
      const targets = rows.map((t) => (t * 31) % vocab);
      const workspace = poisoned(device, "f32", [1 << 16]);
      linearCrossEntropy(device, losses, x, two, rows, targets, workspace, { dx, dweight: null, scale: 0.1 });
      linearForward(device, y, x, one, null);
      one.destroy();
      two.destroy();
      return [y, losses, dx].map((tensor) => device.readFloats(tensor));
    });
    for (const i of [0, 1, 2]) expectClose(results[0]![i]!, results[1]![i]!, tolerance.f32, `result ${i}`);
  });

  test("no tokens, no rows: nothing is written", () => {
    const scratch = poisoned(device, "f32", [64]);
    const weight = Weight.nf4(device, quantized(device, "f32", 4, 4, false), scratch);
    const y = poisoned(device, "f32", [2, 4]);
    linearForward(device, y.rows(0, 0), y.rows(0, 0), weight, null);
    linearBackwardInput(device, y.rows(0, 0), y.rows(0, 0), weight);
    for (const value of [...device.readFloats(y), ...device.readFloats(scratch)]) expect(value).toBeNaN();
    expect(() => Weight.nf4(device, quantized(device, "f32", 10, 10, false), scratch)).toThrow(
      "does not fit into scratch",
    );
    weight.destroy();
  });
});
