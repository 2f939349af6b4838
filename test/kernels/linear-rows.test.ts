// What becomes of a row does not depend on the rows beside it.

import { expect, test } from "bun:test";
import { linearForward, Weight } from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { linearReference, lowRankOf, readWindow, window } from "./linear-reference.ts";
import { expectClose, Random, roundTo, tolerance } from "./numbers.ts";
import { dense, expectRowsAlone, product, transpose } from "./products.ts";

forEachBackend((device) => {
  for (const dtype of ["f32", "bf16"] as const) {
    const limit = dtype === "f32" ? tolerance.f32 : tolerance.bf16;

    test(`${dtype}: few rows are right, and the same to the bit whatever rows are beside them`, () => {
      for (const [inputs, out] of [
        [1, 1],
        [70, 37],
        [144, 300],
      ] as const) {
        const random = new Random(inputs);
        const x = roundTo(dtype, random.floats(8 * inputs));
        const w = roundTo(dtype, random.floats(out * inputs));
        const weight = Weight.dense(device, upload(device, dtype, [out, inputs], w));
        const rowsOf = (begin: number, T: number) => {
          const y = window(device, "f32", T, out, 3);
          const values = x.slice(begin * inputs, (begin + T) * inputs);
          linearForward(device, y, upload(device, dtype, [T, inputs], values), weight, null);
          return readWindow(device, y);
        };
        const all = rowsOf(0, 8);
        expectClose(all, product(dense(x, 8, inputs), transpose(dense(w, out, inputs))), limit, "y");
        if (device.isHost)
          for (let T = 1; T < 8; T++)
            for (const begin of [0, 8 - T])
              expect(rowsOf(begin, T)).toEqual(all.slice(begin * out, (begin + T) * out));
        weight.destroy();
      }
    });

    test(`${dtype}: rows taken each, or in tiles, are the same to the bit however many there are`, () => {
      for (const [inputs, out, rank] of [
        [33, 21, 0],
        [70, 37, 0],
        [144, 200, 8],
        [700, 40, 3],
      ] as const) {
        const T = 300; // more than a tile
        const random = new Random(inputs);
        const make = (n: number) => roundTo(dtype, random.floats(n));
        const [x, w, u, b] = [make(T * inputs), make(out * inputs), make(T * rank), make(out * rank)];
        const bias = random.floats(out);
        const wanted = linearReference({ T, inputs, out, rank }, x, w, bias, u, b);
        const weight = Weight.dense(device, upload(device, dtype, [out, inputs], w));
        const biases = upload(device, "f32", [out], bias);
        for (const kind of ["each", "tiled"] as const) {
          const rowsOf = (begin: number, n: number) => {
            const y = window(device, dtype, n, out, 3);
            const part = (values: Float32Array, columns: number) =>
              values.slice(begin * columns, (begin + n) * columns);
            const low = lowRankOf(device, dtype, part(u, rank), b, n, out, rank);
            linearForward(
              device,
              y,
              upload(device, dtype, [n, inputs], part(x, inputs)),
              weight,
              biases,
              low,
              kind,
            );
            return readWindow(device, y);
          };
          const all = rowsOf(0, T);
          expectClose(all, wanted, limit, `y, ${kind}`);
          const parts = [
            [0, 1],
            [299, 1],
            [7, 8],
            [100, 9],
            [3, 33],
            [20, 128],
            [10, 257],
          ] as const;
          expectRowsAlone(all, out, parts, rowsOf, kind);
        }
        weight.destroy();
      }
    });

    test(`${dtype}: a row of few is what it is alone`, () => {
      const [T, inputs, out] = [8, 264, 45];
      const random = new Random(8);
      const weight = Weight.dense(
        device,
        upload(device, dtype, [out, inputs], roundTo(dtype, random.floats(out * inputs))),
      );
      const x = upload(device, dtype, [T, inputs], roundTo(dtype, random.floats(T * inputs)));
      const rowsOf = (first: number, rows: number) => {
        const y = poisoned(device, "f32", [rows, out]);
        linearForward(device, y, x.rows(first, rows), weight, null);
        return device.readFloats(y);
      };
      const all = rowsOf(0, T);
      if (!device.isHost) {
        const { calls } = device.record(() => rowsOf(0, T));
        const launched = calls.flatMap(({ launches }) => launches.map(({ name }) => name));
        expect(launched.includes("few_rows")).toBe(dtype === "bf16");
      }
      const few = device.isHost ? [] : [1, 2, 3, 5];
      for (const rows of few)
        for (let first = 0; first + rows <= T; first += rows)
          if (dtype === "bf16")
            expect(rowsOf(first, rows)).toEqual(all.slice(first * out, (first + rows) * out));
      expect(rowsOf(0, T)).toEqual(all);
      weight.destroy();
    });
  }
});
