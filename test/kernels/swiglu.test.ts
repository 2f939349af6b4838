import { expect, test } from "bun:test";
import { swigluBackward, swigluBackwardLora, swigluForward } from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { expectClose, Random, roundTo, slopes, tolerance } from "./numbers.ts";
import { dense, product, transpose } from "./products.ts";

const silu = (g: number) => g / (1 + Math.exp(-g));

function forward(gateUp: ArrayLike<number>, T: number, I: number): Float64Array {
  return Float64Array.from({ length: T * I }, (_, i) => {
    const at = Math.floor(i / I) * 2 * I + (i % I);
    return silu(gateUp[at]!) * gateUp[at + I]!;
  });
}

/** The gradient of Σ h ∘ dh by gate and up, laid out as they are. */
function backward(gateUp: ArrayLike<number>, dh: ArrayLike<number>, T: number, I: number): Float64Array {
  const gradient = new Float64Array(T * 2 * I);
  for (let i = 0; i < T * I; i++) {
    const at = Math.floor(i / I) * 2 * I + (i % I);
    const g = gateUp[at]!;
    const s = 1 / (1 + Math.exp(-g));
    gradient[at] = dh[i]! * gateUp[at + I]! * s * (1 + g * (1 - s));
    gradient[at + I] = dh[i]! * g * s;
  }
  return gradient;
}

test("the reference's gradients are those of its forward", () => {
  const [T, I] = [2, 5];
  const random = new Random(1);
  const [gateUp, dh] = [Float64Array.from(random.floats(T * 2 * I, 3)), random.floats(T * I)];
  const loss = (changed: Float64Array) => forward(changed, T, I).reduce((sum, h, i) => sum + h * dh[i]!, 0);
  expectClose(backward(gateUp, dh, T, I), slopes(gateUp, loss, 1e-5), 1e-8);
});

forEachBackend((device) => {
  for (const dtype of ["f32", "bf16"] as const) {
    for (const [T, I] of [
      [1, 1],
      [3, 3],
      [5, 17],
      [2, 65],
      [3, 129],
      [300, 129],
      [7, 200],
    ] as const) {
      test(`${dtype} [${T},${I}]`, () => {
        const random = new Random(T + I);
        const gateUp = roundTo(dtype, random.floats(T * 2 * I, 6));
        const dh = roundTo(dtype, random.floats(T * I));
        const h = poisoned(device, dtype, [T, I]);
        const input = () => upload(device, dtype, [T, 2 * I], gateUp);
        swigluForward(device, h, input());
        const wantH = forward(gateUp, T, I);
        expectClose(device.readFloats(h), wantH, tolerance[dtype], "h");

        const want = backward(gateUp, dh, T, I);
        for (const mode of ["h apart", "h in place of dh", "no h"] as const) {
          const gradient = input();
          const upstream = upload(device, dtype, [T, I], dh);
          const again = {
            "h apart": poisoned(device, dtype, [T, I]),
            "h in place of dh": upstream,
            "no h": null,
          }[mode];
          swigluBackward(device, gradient, again, upstream);
          expectClose(device.readFloats(gradient), want, tolerance[dtype], `gradient, ${mode}`);
          if (again !== null) expect(device.readBytes(again), mode).toEqual(device.readBytes(h));
        }
      });
    }
  }

  for (const dtype of ["f32", "bf16"] as const) {
    // Ranks and widths that a backend's vector and matrix instructions take, and others; one part of the tokens, several.
    for (const [T, I, R] of [
      [1, 1, 1],
      [33, 17, 3],
      [40, 136, 16],
      [300, 264, 8],
      [700, 72, 24],
      [130, 8, 64],
      [20, 128, 40],
      [50, 24, 72],
    ] as const) {
      test(`${dtype} backward with the gradient of LoRA's A, [${T},${I}], R ${R}`, () => {
        const random = new Random(T + I + R);
        const make = (n: number, scale = 1) => roundTo(dtype, random.floats(n, scale));
        const [gateUp, dh, g] = [make(T * 2 * I, 6), make(T * I), make(T * R)];
        const start = random.floats(R * I);
        const run = () => {
          const gradient = upload(device, dtype, [T, 2 * I], gateUp);
          const da = upload(device, "f32", [R, I], start);
          const upstream = upload(device, dtype, [T, I], dh);
          swigluBackwardLora(device, gradient, da, upload(device, dtype, [T, R], g), upstream);
          return [device.readFloats(gradient), device.readFloats(da)] as const;
        };
        const [gradient, da] = run();
        const alone = upload(device, dtype, [T, 2 * I], gateUp);
        const h = poisoned(device, dtype, [T, I]);
        swigluBackward(device, alone, h, upload(device, dtype, [T, I], dh));
        expect(gradient).toEqual(device.readFloats(alone));
        const wanted = product(transpose(dense(g, T, R)), dense(device.readFloats(h), T, I), start);
        expectClose(da, wanted, 2e-6, "da");
        expect(run()).toEqual([gradient, da]);
      });
    }
  }

  test("extreme gates give no NaN", () => {
    const gates = [-1000, -200, -89, 89, 200, 1000, 0, -0];
    const gateUp = upload(device, "f32", [1, 16], Float32Array.from([...gates, ...gates.map(() => 2)]));
    const h = poisoned(device, "f32", [1, 8]);
    swigluForward(device, h, gateUp);
    expectClose(
      device.readFloats(h),
      gates.map((g) => silu(g) * 2),
      1e-6,
      "h",
    );
    swigluBackward(device, gateUp, null, upload(device, "f32", [1, 8], new Float32Array(8).fill(1)));
    const want = backward(
      [...gates, ...gates.map(() => 2)],
      gates.map(() => 1),
      1,
      8,
    );
    expectClose(device.readFloats(gateUp), want, 1e-6, "gradient");
  });

  // Relative to each value: of a sum over columns, small ones would hide behind large ones.
  for (const [dtype, limit] of [
    ["f32", device.isHost ? 4e-7 : 5e-6],
    ["bf16", 2 ** -8 + 5e-6],
  ] as const) {
    test(`${dtype}: silu is as exact for small results as for large ones`, () => {
      const I = 4096;
      const gates = roundTo(
        dtype,
        Float32Array.from({ length: I }, (_, i) => (i * 160) / I - 80 + 1 / 64),
      );
      const gateUp = upload(device, dtype, [1, 2 * I], Float32Array.of(...gates, ...gates.map(() => 1)));
      const h = poisoned(device, dtype, [1, I]);
      swigluForward(device, h, gateUp);
      const worst = device.readFloats(h).reduce((most, value, i) => {
        const error = Math.abs(value / silu(gates[i]!) - 1);
        return Number.isNaN(error) ? error : Math.max(most, error);
      }, 0);
      expect(worst).toBeLessThanOrEqual(limit);
    });
  }

  for (const dtype of ["f32", "bf16"] as const) {
    test(`${dtype}: NaN and infinity stay where they are`, () => {
      // In whole pairs of vectors, in a vector behind them, and in the rest.
      const I = 61;
      const places = [3, 20, 50, 60];
      const gateUp = new Float32Array(2 * I).fill(1);
      for (const [i, place] of places.entries()) {
        if (i % 2 === 0) gateUp[place] = Number.NaN;
        else gateUp[I + place] = Number.NEGATIVE_INFINITY;
      }
      const h = poisoned(device, dtype, [1, I]);
      swigluForward(device, h, upload(device, dtype, [1, 2 * I], gateUp));
      const got = device.readFloats(h);
      for (let i = 0; i < I; i++) {
        const place = places.indexOf(i);
        if (place < 0) expect(got[i]).toBeCloseTo(silu(1), 2);
        else expect(got[i]).toBe(place % 2 === 0 ? Number.NaN : Number.NEGATIVE_INFINITY);
      }
    });
  }

  test("zero sizes write nothing; bad arguments are refused", () => {
    const h = poisoned(device, "f32", [1, 2]);
    device.call("nt_swiglu_forward", 0, h.ptr, 2, h.ptr, 4, 0, 2);
    device.call("nt_swiglu_backward", 0, h.ptr, 0, null, h.ptr, 0, 1, 0);
    device.call("nt_swiglu_backward_lora", 0, h.ptr, 0, null, null, 2, h.ptr, 0, 1, 2, 0);
    expect(device.readFloats(h).every(Number.isNaN)).toBe(true);
    expect(() => device.call("nt_swiglu_forward", 2, h.ptr, 1, h.ptr, 2, 1, 1)).toThrow(
      "swiglu_forward: dtype must be f32 or bf16, got 2",
    );
    expect(() => device.call("nt_swiglu_forward", 0, h.ptr, 1, h.ptr, 2, -1, 1)).toThrow("got T -1");
    expect(() => device.call("nt_swiglu_backward", 0, h.ptr, 2, null, null, 1, 1, 1)).toThrow(
      "swiglu_backward: gate_up and dh must not be null",
    );
  });
});
