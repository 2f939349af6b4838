import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Device, dtypeCode, NativeError } from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { Random } from "./numbers.ts";

/** Every pattern of 16 bits. */
const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** IEEE 754 binary16 by its definition. */
function halfValue(bits: number): number {
  const sign = bits >> 15 === 0 ? 1 : -1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The bf16 nearest to a float32, the even one of two as near, by comparing distances in float64. */
function nearestBf16(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!;
  if (Number.isNaN(value)) return (bits >>> 16) | 0x40;
  const down = bits >>> 16;
  const up = down + 1;
  // One step beyond the greatest finite number, where rounding goes to infinity, lies 2¹²⁸.
  const magnitude = (b: number) => {
    const exponent = (b >> 7) & 255;
    const fraction = b & 127;
    return exponent === 0 ? fraction * 2 ** -133 : (1 + fraction / 128) * 2 ** (exponent - 127);
  };
  const [below, above] = [
    Math.abs(value) - magnitude(down & 0x7fff),
    magnitude(up & 0x7fff) - Math.abs(value),
  ];
  if (!Number.isFinite(value) || below < above) return down;
  if (above < below) return up;
  return (down & 1) === 0 ? down : up;
}

const bitsOf = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);

forEachBackend((device, name) => {
  test("every f16 pattern becomes its f32 and bf16 value", () => {
    const source = device.allocate("f16", [65536]);
    device.write(source, patterns);
    const wide = poisoned(device, "f32", [65536]);
    device.call("nt_cast", wide.ptr, dtypeCode.f32, source.ptr, dtypeCode.f16, 65536);
    const want = Float32Array.from(patterns, halfValue);
    const widened = bitsOf(device.readFloats(wide));
    for (const [i, bits] of bitsOf(want).entries()) {
      const right = Number.isNaN(want[i]) ? (widened[i]! & 0x7fffffff) > 0x7f800000 : widened[i] === bits;
      if (!right) throw new Error(`f16 ${i.toString(16)} became f32 ${widened[i]!.toString(16)}`);
    }
    const narrow = poisoned(device, "bf16", [65536]);
    device.call("nt_cast", narrow.ptr, dtypeCode.bf16, source.ptr, dtypeCode.f16, 65536);
    const got = new Uint16Array(device.readBytes(narrow).buffer);
    for (const [i, value] of want.entries()) {
      if (Number.isNaN(value)) expect((got[i]! & 0x7fff) > 0x7f80).toBe(true);
      else if (got[i] !== nearestBf16(value)) throw new Error(`f16 ${i.toString(16)}: ${got[i]}`);
    }
  });

  test("every bf16 pattern becomes its f32 and comes back", () => {
    const source = device.allocate("bf16", [65536]);
    device.write(source, patterns);
    const wide = poisoned(device, "f32", [65536]);
    device.call("nt_cast", wide.ptr, dtypeCode.f32, source.ptr, dtypeCode.bf16, 65536);
    expect(bitsOf(device.readFloats(wide))).toEqual(Uint32Array.from(patterns, (bits) => bits << 16));
    const back = poisoned(device, "bf16", [65536]);
    device.call("nt_cast", back.ptr, dtypeCode.bf16, wide.ptr, dtypeCode.f32, 65536);
    const quiet = patterns.map((bits) => ((bits & 0x7fff) > 0x7f80 ? bits | 0x40 : bits));
    expect(new Uint16Array(device.readBytes(back).buffer)).toEqual(quiet);
  });

  test("f32 rounds to the nearest bf16, ties to even, NaN stays NaN", () => {
    const random = new Random(1);
    const bits = new Uint32Array(65536 * 3);
    for (let i = 0; i < 65536; i++) {
      bits[3 * i] = (i << 16) | 0x8000; // halfway
      bits[3 * i + 1] = (i << 16) | (0x7fff + 2 * random.integer(2)); // on either side of it
      bits[3 * i + 2] = (i << 16) | random.integer(65536);
    }
    const values = new Float32Array(bits.buffer);
    const source = device.allocate("f32", [values.length]);
    device.write(source, values);
    const got = poisoned(device, "bf16", [values.length]);
    device.call("nt_cast", got.ptr, dtypeCode.bf16, source.ptr, dtypeCode.f32, values.length);
    const rounded = new Uint16Array(device.readBytes(got).buffer);
    for (const [i, value] of values.entries()) {
      const want = Number.isNaN(value) ? (bits[i]! >>> 16) | 0x40 : nearestBf16(value);
      if (rounded[i] !== want) throw new Error(`${bits[i]!.toString(16)} became ${rounded[i]!.toString(16)}`);
    }
  });

  test("uploads from any alignment, any length, and nothing beyond it", () => {
    for (const [dtype, size] of [
      ["f32", 4],
      ["bf16", 2],
      ["f16", 2],
    ] as const) {
      for (const n of [0, 1, 3, 17, 65, 129, 70001]) {
        const bits = Uint8Array.from({ length: n * size }, (_, i) =>
          i % size === size - 1 ? 0x3f : i % 251,
        );
        const unaligned = new Uint8Array(n * size + 1);
        unaligned.set(bits, 1);
        const aligned = device.allocate(dtype, [n]);
        device.write(aligned, bits);
        for (const target of ["f32", "bf16"] as const) {
          const [got, want] = [poisoned(device, target, [n + 1]), poisoned(device, target, [n + 1])];
          const source = unaligned.subarray(1);
          device.call("nt_upload", got.ptr, dtypeCode[target], n === 0 ? null : source, dtypeCode[dtype], n);
          device.call("nt_cast", want.ptr, dtypeCode[target], aligned.ptr, dtypeCode[dtype], n);
          expect(device.readBytes(got)).toEqual(device.readBytes(want));
          expect(device.readFloats(got)[n]).toBeNaN();
          for (const tensor of [got, want]) device.free(tensor.ptr);
        }
        device.free(aligned.ptr);
      }
    }
  });

  test("copies and fills whole tensors, large ones by several threads", () => {
    for (const n of [1, 5, 1000, 3 << 20]) {
      const bytes = Uint8Array.from({ length: n }, (_, i) => i % 253);
      const [a, b] = [device.malloc(n + 1), device.malloc(n + 1)];
      expect([a % 256, b % 256]).toEqual([0, 0]);
      device.call("nt_memset", b, 7, n + 1);
      device.call("nt_copy_to_device", a, bytes, n);
      device.call("nt_copy", b, a, n);
      const out = new Uint8Array(n + 1);
      device.call("nt_copy_to_host", out, b, n + 1);
      expect(out.subarray(0, n)).toEqual(bytes);
      expect(out[n]).toBe(7);
      for (const address of [a, b]) device.free(address);
    }
    device.free(device.malloc(0));
  });

  test("maps files, as device memory where that is the host's", () => {
    const folder = mkdtempSync(join(tmpdir(), "neftune-"));
    try {
      const path = join(folder, "ünïcode");
      writeFileSync(path, Uint8Array.of(0xff, 0x80, 0x3f, 0x00, 0xc0));
      const file = device.mapFile(path);
      expect(file).toMatchObject({ bytes: 5, isDevice: device.isHost });
      const x = poisoned(device, "f32", [2]);
      device.call("nt_upload", x.ptr, dtypeCode.f32, file.address + 1, dtypeCode.bf16, 2);
      expect(device.readFloats(x)).toEqual(Float32Array.of(1, -2));
      device.unmapFile(file);
      truncateSync(path, 5 * 2 ** 30 + 2); // sparse: takes no room
      const large = device.mapFile(path);
      expect(large.bytes).toBe(5 * 2 ** 30 + 2);
      device.call("nt_upload", x.ptr, dtypeCode.f32, large.address + 5 * 2 ** 30, dtypeCode.bf16, 1);
      expect(device.readFloats(x)[0]).toBe(0);
      device.unmapFile(large);
      writeFileSync(path, "");
      expect(() => device.mapFile(path)).toThrow(`${path}: empty, or not a file`);
      expect(() => device.mapFile(folder)).toThrow(`${folder}: empty, or not a file`);
      expect(() => device.mapFile(join(folder, "none"))).toThrow(
        `${join(folder, "none")}: No such file or directory`,
      );
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("values read later are those of then", () => {
    const x = upload(device, "f32", [3], Float32Array.of(1, 2, 3));
    const large = upload(
      device,
      "f32",
      [70_000],
      Float32Array.from({ length: 70_000 }, (_, i) => i),
    );
    const read = [x, x.rows(1, 1), large, x.rows(0, 0), large.rows(5, 2)].map((tensor) =>
      device.readFloatsLater(tensor),
    );
    device.fill(x, 0);
    device.fill(large, 0);
    const after = device.readFloatsLater(x);
    const values = read.map((values) => values());
    expect(values[0]).toEqual(Float32Array.of(1, 2, 3));
    expect(values[1]).toEqual(Float32Array.of(2));
    expect(values[2]!.every((value, i) => value === i)).toBe(true);
    expect(values[3]).toEqual(new Float32Array());
    expect(values[4]).toEqual(Float32Array.of(5, 6));
    expect(after()).toEqual(new Float32Array(3));
    // The memory that those took serves the next ones.
    for (let i = 0; i < 5; i++) {
      device.writeFloats(x, Float32Array.of(i, i, i));
      const [first, second] = [device.readFloatsLater(x), device.readFloatsLater(x.rows(2, 1))];
      expect([...second(), ...first()]).toEqual([i, i, i, i]);
    }
    expect(() => device.readFloatsLater(device.allocate("bf16", [2]))).toThrow("only contiguous float32");
  });

  test("memory in use is asked for when memory was taken, and now and then", () => {
    const before = device.peakMemory();
    const taken = device.malloc(1 << 26);
    if (!device.isHost) {
      device.profile = new Map();
      for (let i = 0; i < 5; i++) expect(device.peakMemory()).toBeGreaterThanOrEqual(before + (1 << 26));
      expect(device.profile.get("nt_describe")!.calls).toBeLessThan(3);
      device.profile = null;
    }
    device.free(taken);
    expect(device.peakMemory()).toBeGreaterThanOrEqual(before);
  });

  test("tells what it is, and what it cannot do", () => {
    expect(name).toStartWith(device.info.backend);
    if (device.isHost) expect(device.info.threads).toBe(2);
    expect(device.info.total_memory).toBeGreaterThan(0);
    expect(device.freeMemory()).toBeGreaterThan(0);
    device.synchronize();
    expect(() => device.malloc(-1)).toThrow("malloc: bytes must be ≥ 0, got -1");
    expect(() => device.malloc(2 ** 60)).toThrow(NativeError);
    const x = upload(device, "f32", [1], Float32Array.of(1));
    const cast = (to: number, from: number, n: number) => () =>
      device.call("nt_cast", x.ptr, to, x.ptr, from, n);
    expect(cast(0, 9, 1)).toThrow("unknown source dtype 9");
    expect(cast(2, 0, 1)).toThrow("dtype must be f32 or bf16, got 2");
    expect(cast(0, 0, -1)).toThrow("n must be ≥ 0, got -1");
    expect(() => device.call("nt_memset", x.ptr, 0, -1)).toThrow("memset: bytes must be ≥ 0, got -1");
    expect(() => device.call("nt_copy", x.ptr, x.ptr, -1)).toThrow("copy: bytes must be ≥ 0, got -1");
    if (device.isHost)
      expect(() => Device.open({ threads: -1 })).toThrow("threads must be between 0 (all) and 256, got -1");
  });
});
