import { expect, test } from "bun:test";
import { dtypeCode, random } from "../../src/native/index.ts";
import { PhiloxStream } from "../../src/philox-streams.ts";
import { forEachBackend, poisoned } from "./harness.ts";
import { roundTo } from "./numbers.ts";
import { block, noiseValue } from "./philox-reference.ts";

const kinds = [
  ["uniform", "uniform"],
  ["normal", "gaussian"],
] as const;

forEachBackend((device) => {
  for (const [kind, noise] of kinds) {
    for (const dtype of ["f32", "bf16"] as const) {
      test(`${kind} ${dtype}`, () => {
        const [seed, draw, scale] = [2 ** 50 + 77, 2 ** 32 - 1, 0.02];
        for (const n of [1, 3, 17, 65, 129, 20000]) {
          const tensor = poisoned(device, dtype, [n + 1]);
          random(device, tensor.rows(0, n), kind, scale, seed, draw);
          const got = device.readFloats(tensor);
          expect(got[n]).toBeNaN();
          const want = Float32Array.from({ length: n }, (_, i) => {
            const words = block(seed, [i >> 2, 0, draw, PhiloxStream.init << 16]);
            return Math.fround(scale) * noiseValue(noise, words, i & 3);
          });
          if (kind === "uniform") {
            expect(got.subarray(0, n)).toEqual(roundTo(dtype, want));
          } else {
            const rounding = dtype === "f32" ? 0 : 2 ** -8;
            for (const [i, value] of want.entries()) {
              const error = Math.abs(got[i]! - value);
              if (!(error <= 2e-6 * scale + rounding * Math.abs(value)))
                throw new Error(`[${i}] of ${n} is ${got[i]} instead of ${value}`);
            }
          }
        }
      });
    }
  }

  test("normal numbers have the moments of N(0, 1), and draws and streams differ", () => {
    const n = 1 << 18;
    const tensor = poisoned(device, "f32", [n]);
    random(device, tensor, "normal", 1, 5, 0);
    const x = device.readFloats(tensor);
    const moment = (power: number) => x.reduce((sum, value) => sum + value ** power, 0) / n;
    expect(Math.abs(moment(1))).toBeLessThan(0.01);
    expect(Math.abs(moment(2) - 1)).toBeLessThan(0.02);
    expect(Math.abs(moment(3))).toBeLessThan(0.05);
    expect(Math.abs(moment(4) - 3)).toBeLessThan(0.1);
    random(device, tensor, "normal", 1, 5, 1);
    expect(device.readFloats(tensor).slice(0, 8)).not.toEqual(x.slice(0, 8));
    device.call("nt_random", dtypeCode.f32, tensor.ptr, n, 1, 1, 5, 0, 2);
    expect(device.readFloats(tensor).slice(0, 8)).not.toEqual(x.slice(0, 8));
  });

  test("zero sizes write nothing; bad arguments are refused", () => {
    const tensor = poisoned(device, "f32", [1]);
    const call = (dtype: number, n: number, kind: number, stream: number) => () =>
      device.call("nt_random", dtype, tensor.ptr, n, kind, 1, 0, 0, stream);
    call(0, 0, 0, 3)();
    expect(device.readFloats(tensor)[0]).toBeNaN();
    expect(call(2, 1, 0, 3)).toThrow("random: dtype must be f32 or bf16, got 2");
    expect(call(0, -1, 0, 3)).toThrow("random: n must be ≥ 0, got -1");
    expect(call(0, 1, 2, 3)).toThrow("random: unknown kind 2");
    expect(call(0, 1, 0, 65536)).toThrow("random: stream must be in [0, 65536), got 65536");
  });
});
