import { expect, test } from "bun:test";
import type { FloatDType } from "../../src/floats.ts";
import { type Device, nf4Dequantize, nf4Sizes, nf4Words, Tensor } from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload, uploadInts } from "./harness.ts";
import {
  codebook,
  dequantized,
  floatsOf,
  type HostNf4,
  reference,
  referenceBytes,
  rounded,
  storedDtypes,
  toDevice,
  uploadStored,
  valuesOf,
} from "./nf4-reference.ts";
import { Random } from "./numbers.ts";

const dtypeCodes = { f32: 0, bf16: 1, f16: 2 } as const;
const fileNames = { f32: "float32", bf16: "bfloat16", f16: "float16" } as const;

/** Memory of exactly as many bytes, and 64 more of 0xff to see that nothing is written there. */
function guarded(device: Device, bytes: number): { address: number; read(): Uint8Array<ArrayBuffer> } {
  const tensor = poisoned(device, "i32", [Math.ceil(bytes / 4) + 16]);
  return {
    address: tensor.ptr,
    read() {
      const all = device.readBytes(tensor);
      for (const byte of all.subarray(bytes)) expect(byte, "written past the end").toBe(0xff);
      return all.slice(0, bytes);
    },
  };
}

/** Quantizes `source` in memory of exactly the right size. */
function quantize(device: Device, dtype: FloatDType, source: Float32Array) {
  const n = source.length;
  const sizes = nf4Sizes(n);
  const codes = guarded(device, sizes.codes);
  const absmax = guarded(device, 4 * sizes.blocks);
  const nested = guarded(device, sizes.blocks);
  const absmax2 = guarded(device, 4 * (sizes.nested + 1));
  const input = uploadStored(device, dtype, source);
  const odd = uploadInts(device, [0]);
  device.call("nt_nf4_quantize", codes.address, absmax.address, input.ptr, dtypeCodes[dtype], n, odd.ptr);
  device.call("nt_nf4_quantize_absmax", nested.address, absmax2.address, absmax.address, sizes.blocks);
  const second = floatsOf(absmax2.read());
  return {
    codes: codes.read(),
    absmax: floatsOf(absmax.read()),
    nested: nested.read(),
    absmax2: second.slice(0, -1),
    offset: second.at(-1)!,
    nonFinite: device.readInts(odd)[0]!,
  };
}

/** The code of each element. */
const codesOf = (packed: Uint8Array, n: number) =>
  Array.from({ length: n }, (_, i) => (i % 2 === 0 ? packed[i >> 1]! >> 4 : packed[i >> 1]! & 15));

/** Values of a tensor dequantized to `to`, in memory of exactly the right size. */
function dequantize(device: Device, host: HostNf4, to: FloatDType): Float32Array {
  const n = host.shape[0] * host.shape[1];
  const bytes = to === "f32" ? 4 : 2;
  const memory = guarded(device, bytes * n);
  device.call("nt_nf4_dequantize", memory.address, dtypeCodes[to], nf4Words(toDevice(device, host)), n, n, n);
  return valuesOf(to, memory.read());
}

forEachBackend((device) => {
  for (const { name, shape, nested_offset } of reference.tensors) {
    const bytes = (part: string) => referenceBytes(`${name}.${part}`);
    const input = floatsOf(bytes("input"));

    test(`${name} [${shape}] is quantized to bitsandbytes' bytes`, () => {
      const got = quantize(device, "f32", input);
      expect(got.codes).toEqual(bytes("plain.packed"));
      expect(got.absmax).toEqual(floatsOf(bytes("plain.absmax")));
      // The order of the mean's sum is free.
      expect(Math.abs(got.offset - nested_offset)).toBeLessThanOrEqual(1e-6 * nested_offset);
      const absmax2 = floatsOf(bytes("double.nested_absmax"));
      expect(got.absmax2.length).toBe(absmax2.length);
      absmax2.forEach((wanted, i) => {
        expect(Math.abs(got.absmax2[i]! - wanted)).toBeLessThanOrEqual(1e-6 * (wanted + nested_offset));
      });
      const nested = bytes("double.absmax");
      got.nested.forEach((code, block) => {
        if (got.absmax2[block >> 8]! > 0) expect(code, `block ${block}`).toBe(nested[block]!);
      });
    });

    for (const kind of ["plain", "double"] as const)
      test(`${name} is dequantized to bitsandbytes' values, ${kind}`, () => {
        for (const dtype of storedDtypes) {
          const double = kind === "double";
          const host: HostNf4 = {
            dtype,
            shape,
            codes: bytes(`${kind}.packed`),
            absmax: double ? bytes("double.absmax") : floatsOf(bytes("plain.absmax")),
            absmax2: double
              ? Float32Array.of(...floatsOf(bytes("double.nested_absmax")), nested_offset)
              : undefined,
          };
          const wanted = valuesOf(dtype, bytes(`${kind}.${fileNames[dtype]}`));
          expect(dequantized(host), `the formulas, ${dtype}`).toEqual(wanted as Float32Array<ArrayBuffer>);
          for (const to of storedDtypes)
            expect(dequantize(device, host, to), `${dtype} as ${to}`).toEqual(
              wanted.map((x) => rounded(to, x)),
            );
        }
      });
  }

  test("the dtype of the source changes nothing but its values", () => {
    for (const dtype of ["bf16", "f16"] as const)
      for (const n of [1, 63, 64, 130, 40_001]) {
        const source = new Random(n).floats(n).map((x) => rounded(dtype, x));
        expect(quantize(device, dtype, source)).toEqual(quantize(device, "f32", source));
      }
  });

  test("a code is the number of bounds below, also on the bounds and beside them", () => {
    const bounds = Float32Array.from(reference.bounds);
    const near = new Uint32Array(bounds.buffer.slice(0));
    const beside = [-1, 0, 1].flatMap((step) => [
      ...floatsOf(new Uint8Array(near.map((b) => b + step).buffer)),
    ]);
    const values = [...beside, ...codebook, ...new Random(3).floats(64 * 200)];
    // absmax 1 and 0.5 leave s exact.
    for (const scale of [1, 0.5]) {
      const blocks = Math.ceil(values.length / 63);
      const source = Float32Array.from({ length: blocks * 64 }, (_, i) =>
        i % 64 === 0 ? scale : scale * (values[(i >> 6) * 63 + (i % 64) - 1] ?? 0),
      );
      const wanted = Array.from(source, (x) => bounds.filter((bound) => x / scale > bound).length);
      expect(codesOf(quantize(device, "f32", source).codes, source.length)).toEqual(wanted);
    }
  });

  test("codes grow with the values, and a value comes back within half a step", () => {
    const source = new Random(4).floats(64 * 50, 3);
    for (let b = 0; b < source.length; b += 64) source.subarray(b, b + 64).sort();
    const { codes, absmax } = quantize(device, "f32", source);
    const back = dequantized({ dtype: "f32", shape: [50, 64], codes, absmax });
    const list = codesOf(codes, source.length);
    for (let i = 0; i < source.length; i++) {
      if (i % 64 > 0) expect(list[i]!).toBeGreaterThanOrEqual(list[i - 1]!);
      const block = absmax[i >> 6]!;
      const [below, above] = [codebook[list[i]! - 1] ?? -1, codebook[list[i]! + 1] ?? 1];
      const step = Math.max(above - codebook[list[i]!]!, codebook[list[i]!]! - below);
      expect(Math.abs(back[i]! - source[i]!)).toBeLessThanOrEqual((block * step) / 2 + 1e-6);
    }
    // What NF4 can say is left as it is.
    const again = quantize(device, "f32", back);
    expect(again.codes).toEqual(codes);
    expect(again.absmax).toEqual(absmax);
  });

  test("every length: the last block may be short, the last byte half", () => {
    const random = new Random(5);
    for (const n of [1, 2, 3, 31, 33, 63, 65, 127, 129, 191, 64 * 256 + 1, 64 * 257 - 1, 40_000]) {
      const source = random.floats(n);
      const got = quantize(device, "f32", source);
      if (n % 2 === 1) expect(got.codes.at(-1)! & 15, "the filling").toBe(7);
      for (let b = 0; b < got.absmax.length; b++)
        expect(got.absmax[b]).toBe(Math.max(...source.subarray(64 * b, 64 * b + 64).map(Math.abs)));
      const plain: HostNf4 = { dtype: "bf16", shape: [1, n], codes: got.codes, absmax: got.absmax };
      const double = { ...plain, absmax: got.nested, absmax2: Float32Array.of(...got.absmax2, got.offset) };
      for (const host of [plain, double])
        for (const to of ["f32", "bf16"] as const)
          expect(dequantize(device, host, to), `${n}`).toEqual(dequantized(host));
    }
  });

  test("zeros, blocks all alike, subnormals, and what is no number", () => {
    const zeros = quantize(device, "f32", new Float32Array(70));
    expect(zeros.codes).toEqual(new Uint8Array(35).fill(0x77));
    expect(zeros.absmax).toEqual(Float32Array.of(0, 0));
    expect([...zeros.absmax2, zeros.offset]).toEqual([0, 0]);

    const alike = quantize(device, "f32", new Float32Array(64 * 300).fill(-0.25));
    expect(alike.codes).toEqual(new Uint8Array(32 * 300));
    expect(alike.offset).toBe(0.25);
    expect(alike.absmax2).toEqual(Float32Array.of(0, 0));
    const absmax2 = Float32Array.of(...alike.absmax2, alike.offset);
    const host: HostNf4 = {
      dtype: "f32",
      shape: [300, 64],
      codes: alike.codes,
      absmax: alike.nested,
      absmax2,
    };
    expect(dequantize(device, host, "f32")).toEqual(new Float32Array(64 * 300).fill(-0.25));

    // The least power of two whose inverse is finite is 2⁻¹²⁷.
    const small = Float32Array.from({ length: 64 }, (_, i) => (i - 32) * 2 ** -132);
    const tiny = quantize(device, "f32", small);
    expect(tiny.absmax[0]).toBe(2 ** -127);
    expect(codesOf(tiny.codes, 64)[32]).toBe(7);
    expect(dequantize(device, { dtype: "f32", shape: [1, 64], ...tiny, absmax2: undefined }, "f32")).toEqual(
      dequantized({ dtype: "f32", shape: [1, 64], ...tiny, absmax2: undefined }),
    );

    const odd = new Random(6).floats(64 * 4);
    odd[3] = NaN;
    odd[70] = Infinity;
    odd[140] = -Infinity;
    odd[141] = NaN;
    const got = quantize(device, "f32", odd);
    const finite = odd.subarray(0, 64).filter((x) => !Number.isNaN(x));
    expect(got.absmax[0]).toBe(Math.max(...finite.map(Math.abs)));
    expect(got.absmax[1]).toBe(Infinity);
    expect(codesOf(got.codes, 64)[3]).toBe(0);
    expect(got.absmax[3]).toBe(Math.max(...odd.subarray(192).map(Math.abs)));
    expect(got.nonFinite).toBe(4);
  });

  test("every value that is not finite is counted, wherever it stands, in every dtype", () => {
    for (const dtype of storedDtypes) {
      for (const n of [1, 65, 64 * 300, 40_001]) {
        const source = new Random(n).floats(n);
        const largest = { f32: 3.4e38, bf16: 3.38e38, f16: 65504 }[dtype];
        source[0] = rounded(dtype, largest);
        expect(quantize(device, dtype, source).nonFinite, `${dtype}[${n}], all finite`).toBe(0);
        const places = new Set([0, n >> 1, n - 1, ...(n > 200 ? [64, 127, 128, n - 2] : [])]);
        for (const [i, place] of [...places].entries()) source[place] = [NaN, Infinity, -Infinity][i % 3]!;
        expect(quantize(device, dtype, source).nonFinite, `${dtype}[${n}]`).toBe(places.size);
      }
    }
  });

  test("the count is added to, and need not be wanted", () => {
    const source = upload(device, "f32", [64], new Float32Array(64).fill(NaN));
    const [codes, absmax] = [poisoned(device, "i32", [8]), poisoned(device, "f32", [1])];
    const count = uploadInts(device, [5]);
    device.call("nt_nf4_quantize", codes.ptr, absmax.ptr, source.ptr, 0, 64, count.ptr);
    device.call("nt_nf4_quantize", codes.ptr, absmax.ptr, source.ptr, 0, 64, null);
    expect(device.readInts(count)[0]).toBe(69);
  });

  test("values with ±absmax at the ends come back exactly in every dtype", () => {
    for (const dtype of storedDtypes) {
      const source = new Float32Array(64 * 8);
      for (let b = 0; b < 8; b++) source[64 * b + 9 * b] = rounded(dtype, (b % 2 ? -1 : 1) * (0.1 + 0.3 * b));
      const { codes, absmax } = quantize(device, dtype, source);
      expect(dequantize(device, { dtype, shape: [8, 64], codes, absmax }, dtype)).toEqual(source);
    }
  });

  test("nested codes are the nearest entries of the dynamic map", () => {
    const map = reference.dynamic_map.map(Math.fround);
    const random = new Random(7);
    // Mean 0: halves alike but for the sign, which real absmax do not have.
    const half = Float32Array.from({ length: 1280 }, (_, i) => random.next() * 10 ** -(i % 7));
    const absmax = Float32Array.from({ length: 2560 }, (_, i) => (i % 2 === 0 ? 1 : -1) * half[i >> 1]!);
    const [codes, absmax2] = [guarded(device, 2560), guarded(device, 4 * 11)];
    const tensor = uploadStored(device, "f32", absmax);
    device.call("nt_nf4_quantize_absmax", codes.address, absmax2.address, tensor.ptr, 2560);
    const second = floatsOf(absmax2.read());
    expect(second[10]).toBe(0);
    codes.read().forEach((code, b) => {
      const top = Math.max(...absmax.subarray(b & ~255, (b & ~255) + 256).map(Math.abs));
      expect(second[b >> 8]).toBe(top);
      const s = Math.fround(absmax[b]! * Math.fround(1 / top));
      const distances = map.map((entry) => Math.abs(entry - s));
      expect(distances[code]).toBe(Math.min(...distances));
    });
  });

  test("no values: nothing is written", () => {
    const bytes = poisoned(device, "f32", [4]);
    device.call("nt_nf4_quantize", bytes.ptr, bytes.ptr, bytes.ptr, 0, 0, bytes.ptr);
    device.call("nt_nf4_quantize_absmax", bytes.ptr, bytes.ptr, bytes.ptr, 0);
    const empty = toDevice(device, {
      dtype: "f32",
      shape: [0, 64],
      codes: new Uint8Array(0),
      absmax: new Float32Array(0),
    });
    nf4Dequantize(device, new Tensor(bytes.ptr, "f32", [0]), empty);
    for (const value of device.readFloats(bytes)) expect(value).toBeNaN();
  });

  test("invalid arguments are refused with what came", () => {
    const { ptr } = poisoned(device, "f32", [64]);
    const words = (dtype: bigint, codes = BigInt(ptr)) => BigInt64Array.of(codes, BigInt(ptr), 0n, dtype);
    const calls: [() => void, string][] = [
      [() => device.call("nt_nf4_quantize", ptr, ptr, ptr, 3, 1, null), "source dtype 3"],
      [() => device.call("nt_nf4_quantize", ptr, ptr, ptr, 0, -1, null), "got -1"],
      [() => device.call("nt_nf4_quantize", ptr, ptr, null, 0, 1, null), "null"],
      [() => device.call("nt_nf4_quantize_absmax", ptr, null, ptr, 1), "null"],
      [() => device.call("nt_nf4_quantize_absmax", ptr, ptr, ptr, -5), "got -5"],
      [() => device.call("nt_nf4_dequantize", ptr, 4, words(0n), 1, 1, 1), "destination dtype 4"],
      [() => device.call("nt_nf4_dequantize", ptr, 0, words(9n), 1, 1, 1), "dtype 9"],
      [() => device.call("nt_nf4_dequantize", ptr, 0, words(0n, 0n), 1, 1, 1), "null"],
      [() => device.call("nt_nf4_dequantize", null, 0, words(0n), 1, 1, 1), "destination must not be null"],
      [() => device.call("nt_nf4_dequantize", ptr, 0, null, 1, 1, 1), "no NF4 tensor"],
    ];
    for (const [call, message] of calls) expect(call).toThrow(message);
    const create = (dtype: number, out: number, scratch: number | null) =>
      device.call("nt_weight_create_nf4", dtype, out, 8, words(0n), scratch, new BigUint64Array(1));
    expect(() => create(2, 8, ptr)).toThrow("got 2");
    expect(() => create(0, -8, ptr)).toThrow("[-8, 8]");
    expect(() => create(0, 8, null)).toThrow("no scratch");
  });
});
