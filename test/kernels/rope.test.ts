import { expect, test } from "bun:test";
import { type Device, rope, Tensor } from "../../src/native/index.ts";
import { forEachBackend, upload, uploadInts } from "./harness.ts";
import { expectClose, Random, roundTo, tolerance } from "./numbers.ts";
import { angles, turn } from "./rope-reference.ts";

function uploadTables(device: Device, tables: ReturnType<typeof angles>, headDim: number) {
  const shape = [tables.cosine.length / (headDim / 2), headDim / 2];
  return {
    cosine: upload(device, "f32", shape, tables.cosine),
    sine: upload(device, "f32", shape, tables.sine),
  };
}

forEachBackend((device) => {
  for (const dtype of ["f32", "bf16"] as const) {
    for (const [T, heads, headDim] of [
      [1, 1, 2],
      [3, 5, 6],
      [17, 3, 34],
      [5, 2, 64],
      [129, 3, 128],
      [9, 20, 128],
    ] as const) {
      test(`${dtype}, ${heads} heads of ${headDim}, ${T} tokens: there and back`, () => {
        const random = new Random(T + headDim);
        const ldx = heads * headDim + (heads % 2 === 0 ? 8 : 7); // the columns beyond are somebody else's
        const x = roundTo(dtype, random.floats(T * ldx));
        const positions = Array.from({ length: T }, () => random.integer(200));
        const tables = angles(200, headDim);
        const whole = upload(device, dtype, [T, ldx], x);
        const part = whole.columns(0, heads * headDim);
        const deviceTables = uploadTables(device, tables, headDim);
        const places = uploadInts(device, positions);

        rope(device, part, deviceTables, places, headDim);
        const turned = device.readFloats(whole);
        const want = turn(x, ldx, tables, positions, heads, headDim, 1);
        expectClose(turned, want, tolerance[dtype], "turned");
        for (let t = 0; t < T; t++) {
          const beyond = [t * ldx + heads * headDim, (t + 1) * ldx] as const;
          expect(turned.slice(...beyond)).toEqual(x.slice(...beyond));
        }

        rope(device, part, deviceTables, places, headDim, true);
        const back = turn(turned, ldx, tables, positions, heads, headDim, -1);
        expectClose(device.readFloats(whole), back, tolerance[dtype], "turned back");
        expectClose(device.readFloats(whole), x, 2 * tolerance[dtype], "the start");
      });
    }
  }

  test("the inverse is the gradient: ⟨turn(x), y⟩ = ⟨x, inverse(y)⟩", () => {
    const [T, headDim] = [9, 10];
    const random = new Random(1);
    const [x, y] = [random.floats(T * headDim), random.floats(T * headDim)];
    const tables = uploadTables(device, angles(T, headDim), headDim);
    const positions = uploadInts(
      device,
      Array.from({ length: T }, (_, t) => t),
    );
    const [a, b] = [upload(device, "f32", [T, headDim], x), upload(device, "f32", [T, headDim], y)];
    rope(device, a, tables, positions, headDim);
    rope(device, b, tables, positions, headDim, true);
    const dot = (p: Float32Array, q: Float32Array) => p.reduce((sum, value, i) => sum + value * q[i]!, 0);
    expect(dot(device.readFloats(a), y)).toBeCloseTo(dot(x, device.readFloats(b)), 5);
  });

  test("zero sizes write nothing; bad arguments are refused", () => {
    const x = upload(device, "f32", [2, 4], new Float32Array(8).fill(3));
    const tables = uploadTables(device, angles(4, 4), 4);
    rope(device, new Tensor(x.ptr, "f32", [0, 4]), tables, uploadInts(device, []), 4);
    expect(device.readFloats(x)).toEqual(new Float32Array(8).fill(3));
    const backwards = () => rope(device, x, tables, uploadInts(device, [0, -1]), 4);
    if (device.isHost) {
      expect(backwards).toThrow("got -1 at token 1");
    } else {
      backwards(); // a device sees positions only in the kernel
      const y = device.readFloats(x);
      expect([y.subarray(0, 4).some(Number.isNaN), y.subarray(4).every(Number.isNaN)]).toEqual([false, true]);
    }
    const places = uploadInts(device, [0, 1]).ptr;
    const call = (ldx: number, heads: number, headDim: number) => () =>
      device.call("nt_rope", 0, x.ptr, ldx, tables.cosine.ptr, tables.sine.ptr, places, 2, heads, headDim, 0);
    expect(call(4, 1, 3)).toThrow("rope: head_dim must be even, got 3");
    expect(call(3, 1, 4)).toThrow("rope: ldx must be at least heads · head_dim = 4, got 3");
    expect(call(4, -1, 4)).toThrow("sizes must be ≥ 0");
  });
});
