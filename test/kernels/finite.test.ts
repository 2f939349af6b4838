import { expect, test } from "bun:test";
import { addNonFinite, countNonFinite, dtypeCode, Tensor } from "../../src/native/index.ts";
import { forEachBackend, uploadInts } from "./harness.ts";
import { rounded, storedDtypes, uploadStored } from "./nf4-reference.ts";
import { Random } from "./numbers.ts";

forEachBackend((device) => {
  test("values that are not finite are counted, at any place, length and alignment", () => {
    for (const dtype of storedDtypes) {
      for (const n of [1, 2, 7, 8, 9, 4095, 4097, 70_001]) {
        const largest = rounded(dtype, { f32: -3.4e38, bf16: -3.38e38, f16: -65504 }[dtype]);
        const finite = new Random(n).floats(n + 1, 4).fill(largest, 0, 1 + (n >> 1));
        for (const offset of [0, 1]) {
          const part = (source: Float32Array) => {
            const whole = uploadStored(device, dtype, source);
            return new Tensor(whole.ptr + offset * (dtype === "f32" ? 4 : 2), whole.dtype, [n]);
          };
          expect(countNonFinite(device, part(finite)), `${dtype}[${n}]+${offset}, all finite`).toBe(0);
          const odd = finite.slice();
          const places = new Set([0, 1, 6, n >> 1, n - 2, n - 1].filter((i) => i >= 0 && i < n));
          [...places].forEach((place, i) => {
            odd[place + offset] = [NaN, Infinity, -Infinity][i % 3]!;
          });
          expect(countNonFinite(device, part(odd)), `${dtype}[${n}]+${offset}`).toBe(places.size);
        }
      }
    }
  });

  test("the count is added to; no values leave it", () => {
    const count = uploadInts(device, [7]);
    const tensor = uploadStored(device, "bf16", new Float32Array(33).fill(NaN));
    addNonFinite(device, count, tensor);
    expect(device.readInts(count)[0]).toBe(40);
    addNonFinite(device, count, new Tensor(tensor.ptr, "bf16", [0]));
    expect(device.readInts(count)[0]).toBe(40);
  });

  test("invalid arguments are refused with what came", () => {
    const { ptr } = uploadInts(device, [0]);
    const call =
      (...args: (number | null)[]) =>
      () =>
        device.call("nt_count_non_finite", ...args);
    expect(call(ptr, ptr, 3, 1)).toThrow("source dtype 3");
    expect(call(ptr, ptr, dtypeCode.f32, -1)).toThrow("got -1");
    expect(call(null, ptr, dtypeCode.f32, 1)).toThrow("null");
    expect(() => countNonFinite(device, new Tensor(ptr, "i32", [1]))).toThrow("holds integers");
  });
});
