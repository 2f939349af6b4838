// Float types: values to bytes and back, and names.

import { describe, expect, test } from "bun:test";
import { decodeFloats, encodeFloats, floatDTypes, floatTypeNamed, floatTypes } from "../src/floats.ts";

test("values are rounded to nearest even; NaN and infinities stay", () => {
  const values = Float32Array.of(1, 1.00390625, 1.01171875, -3.3895313892515355e38, Number.NaN, 65519, 0);
  const bf16 = new Uint16Array(encodeFloats(values, "bf16").slice().buffer);
  expect([...bf16]).toEqual([0x3f80, 0x3f80, 0x3f82, 0xff7f, 0x7fc0, 0x4780, 0]);
  const f16 = new Uint16Array(encodeFloats(values, "f16").slice().buffer);
  expect([f16[0], f16[3], f16[5]]).toEqual([0x3c00, 0xfc00, 0x7bff]);
});

describe("every value of a type comes back:", () => {
  const all = new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer);
  test.each(["bf16", "f16"] as const)("%s", (dtype) => {
    const values = decodeFloats(dtype, all);
    const again = new Uint16Array(encodeFloats(values, dtype).slice().buffer);
    for (let i = 0; i < 65536; i++) if (!Number.isNaN(values[i]!) && again[i] !== i) expect(again[i]).toBe(i);
    const finite = values.filter(Number.isFinite);
    expect(Math.max(...finite.slice(0, 32768))).toBe(dtype === "f16" ? 65504 : 2 ** 128 - 2 ** 120);
  });

  test("f32, at any alignment", () => {
    const values = Float32Array.of(1 / 3, -2e-40, Number.POSITIVE_INFINITY);
    const shifted = new Uint8Array([9, ...encodeFloats(values, "f32")]).subarray(1);
    expect(decodeFloats("f32", shifted)).toEqual(values);
  });
});

test("names lead back to the type", () => {
  for (const dtype of floatDTypes)
    for (const format of ["safetensors", "torch"] as const)
      expect(floatTypeNamed(format, floatTypes[dtype][format])).toBe(dtype);
  for (const name of ["F64", "float64", "f32", undefined])
    expect([floatTypeNamed("safetensors", name), floatTypeNamed("torch", name)]).toEqual([null, null]);
});
