// NF4 for the tests: bitsandbytes' vectors, the formulas in plain TypeScript, and float16.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { FloatDType } from "../../src/floats.ts";
import {
  allocateNf4,
  type Device,
  type DType,
  type Nf4,
  nf4Dequantize,
  nf4Quantize,
  nf4Sizes,
  type Tensor,
} from "../../src/native/index.ts";
import { poisoned, upload } from "./harness.ts";
import { Random, roundTo } from "./numbers.ts";

export const storedDtypes: readonly FloatDType[] = ["f32", "bf16", "f16"];

interface Reference {
  codebook: number[];
  bounds: number[];
  dynamic_map: number[];
  tensors: { name: string; shape: [number, number]; nested_offset: number }[];
}

const golden = join(import.meta.dir, "..", "golden", "nf4");
const whole = join(import.meta.dir, "..", "..", "..", "shared", "reference");

/** What bitsandbytes gives: test/golden has all but the two largest tensors of the set it was taken from. */
const folder = existsSync(join(whole, "nf4.safetensors")) ? whole : golden;
export const reference: Reference = JSON.parse(readFileSync(join(folder, "nf4.json"), "utf8"));
export const codebook = Float32Array.from(reference.codebook);

/** The reference's tensors by name, as bytes. */
export const referenceBytes: (name: string) => Uint8Array<ArrayBuffer> = readTensors(
  join(folder, "nf4.safetensors"),
);

function readTensors(path: string): (name: string) => Uint8Array<ArrayBuffer> {
  const file = readFileSync(path);
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, 8 + length));
  return (name) => {
    const [begin, end] = header[name].data_offsets;
    return Uint8Array.from(file.subarray(8 + length + begin, 8 + length + end));
  };
}

export const floatsOf = (bytes: Uint8Array<ArrayBuffer>) => new Float32Array(bytes.buffer);

/** float32 of a float16's bits. */
function widenHalf(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size =
    exponent === 31
      ? fraction === 0
        ? Infinity
        : NaN
      : exponent === 0
        ? fraction * 2 ** -24
        : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
}

/** Values of a tensor of any float dtype. */
export function valuesOf(dtype: FloatDType, bytes: Uint8Array<ArrayBuffer>): Float32Array {
  if (dtype === "f32") return floatsOf(bytes);
  const halves = new Uint16Array(bytes.buffer);
  const values = new Float32Array(halves.length);
  const words = new Uint32Array(values.buffer);
  for (const [i, half] of halves.entries())
    if (dtype === "f16") values[i] = widenHalf(half);
    else words[i] = half << 16;
  return values;
}

/** The float16 nearest to x, ties to even, as bits. */
export function halfOf(x: number): number {
  if (Number.isNaN(x)) return 0x7e00;
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const size = Math.abs(x);
  if (size >= 65520) return sign | 0x7c00;
  const exponent = size < 2 ** -14 ? -14 : Math.floor(Math.log2(size));
  const scaled = size / 2 ** (exponent - 10);
  const floor = Math.floor(scaled);
  const rest = scaled - floor;
  const units = rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
  return sign | (size < 2 ** -14 ? units : ((exponent + 15) << 10) + units - 1024);
}

/** x rounded to a dtype. */
export function rounded(dtype: FloatDType, x: number): number {
  if (dtype === "f16") return widenHalf(halfOf(x));
  return roundTo(dtype, Float32Array.of(x))[0]!;
}

/** A device tensor of these values, already rounded to the dtype. */
export function uploadStored(device: Device, dtype: FloatDType, values: Float32Array): Tensor {
  if (dtype !== "f16") return upload(device, dtype, [values.length], values);
  const tensor = device.allocate("f16", [values.length]);
  device.write(tensor, Uint16Array.from(values, halfOf));
  return tensor;
}

/** Memory for an NF4 tensor, every byte 0xff. */
export function allocateOn(
  device: Device,
  shape: readonly number[],
  dtype: FloatDType,
  double: boolean,
): Nf4 {
  const allocator = {
    allocate: (_: string, type: DType, size: readonly number[]) => poisoned(device, type, size),
  };
  return allocateNf4(allocator, "weights", shape, dtype, double);
}

/** A quantized [out, in] matrix of random values with outliers. */
export function quantized(
  device: Device,
  stored: FloatDType,
  out: number,
  inputs: number,
  double: boolean,
  seed = out * 7 + inputs,
): Nf4 {
  const random = new Random(seed);
  const n = out * inputs;
  const values = random.floats(n).map((x, i) => (i % 97 === 5 ? 4 * x : x * (1 + (i >> 6) / 9)));
  const nf4 = allocateOn(device, [out, inputs], stored, double);
  const source = uploadStored(
    device,
    stored,
    values.map((x) => rounded(stored, x)),
  );
  nf4Quantize(device, nf4, source, poisoned(device, "f32", [nf4Sizes(n).blocks]), null);
  return nf4;
}

/** The tensor's values, dequantized on the device. */
export function valuesOn(device: Device, nf4: Nf4, dtype: "f32" | "bf16"): Tensor {
  const tensor = poisoned(device, dtype, nf4.shape);
  nf4Dequantize(device, tensor, nf4);
  return tensor;
}

/** An NF4 tensor in host memory. */
export interface HostNf4 {
  dtype: FloatDType;
  shape: [number, number];
  codes: Uint8Array;
  absmax: Float32Array | Uint8Array;
  /** With the offset behind it. */
  absmax2?: Float32Array | undefined;
}

export function toDevice(device: Device, { dtype, shape, codes, absmax, absmax2 }: HostNf4): Nf4 {
  const nf4 = allocateOn(device, shape, dtype, absmax2 !== undefined);
  const padded = (bytes: Uint8Array, tensor: Tensor) => {
    const whole = new Uint8Array(tensor.bytes);
    whole.set(bytes);
    device.write(tensor, whole);
  };
  padded(codes, nf4.codes);
  padded(new Uint8Array(absmax.buffer, absmax.byteOffset, absmax.byteLength), nf4.absmax);
  if (absmax2 !== undefined) device.write(nf4.absmax2!, absmax2);
  return nf4;
}

const fround = Math.fround;

/** A tensor's values, by the formulas: nothing is fused, and each is rounded to what was quantized. */
export function dequantized({ dtype, shape, codes, absmax, absmax2 }: HostNf4): Float32Array<ArrayBuffer> {
  const absmaxOf = (block: number) => {
    if (absmax2 === undefined) return absmax[block]!;
    const entry = fround(reference.dynamic_map[absmax[block]!]!);
    return fround(fround(entry * absmax2[block >> 8]!) + absmax2.at(-1)!);
  };
  const values = new Float32Array(shape[0] * shape[1]);
  for (let i = 0; i < values.length; i++) {
    const code = i % 2 === 0 ? codes[i >> 1]! >> 4 : codes[i >> 1]! & 15;
    values[i] = codebook[code]! * absmaxOf(i >> 6);
  }
  return dtype === "f16" ? values.map((value) => rounded(dtype, value)) : roundTo(dtype, values);
}
