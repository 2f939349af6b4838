import { expect, test } from "bun:test";
import { type AdamWOptions, adamw, type Device, gradientNorm } from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { expectClose, Random, roundTo } from "./numbers.ts";

const options: AdamWOptions = {
  learningRate: 1e-2,
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-6,
  weightDecay: 0.1,
  step: 1,
};

interface State {
  p: Float64Array;
  m: Float64Array;
  v: Float64Array;
}

/** One step of torch.optim.AdamW in float64, from the options as float32 has them. */
function reference({ p, m, v }: State, g: Float32Array, scale: number, o: AdamWOptions): void {
  const [lr, b1, b2] = [o.learningRate, o.beta1, o.beta2].map(Math.fround) as [number, number, number];
  const [eps, decay] = [Math.fround(o.epsilon), Math.fround(o.weightDecay)];
  for (let i = 0; i < p.length; i++) {
    const gradient = g[i]! * scale;
    m[i] = b1 * m[i]! + (1 - b1) * gradient;
    v[i] = b2 * v[i]! + (1 - b2) * gradient ** 2;
    const denominator = Math.sqrt(v[i]! / (1 - b2 ** o.step)) + eps;
    p[i] = p[i]! * (1 - lr * decay) - ((lr / (1 - b1 ** o.step)) * m[i]!) / denominator;
  }
}

function setUp(device: Device, n: number) {
  const random = new Random(n);
  const start = random.floats(n);
  const zeros = () => upload(device, "f32", [n], new Float32Array(n));
  const state = { p: Float64Array.from(start), m: new Float64Array(n), v: new Float64Array(n) };
  return { random, state, parameters: upload(device, "f32", [n], start), m: zeros(), v: zeros() };
}

forEachBackend((device) => {
  for (const n of [1, 3, 17, 65, 129, 70001]) {
    test(`five steps of AdamW on ${n} values`, () => {
      const { random, state, parameters, m, v } = setUp(device, n);
      const copy = poisoned(device, "bf16", [n]);
      const scale = upload(device, "f32", [1], Float32Array.of(0.375));
      for (let step = 1; step <= 5; step++) {
        const g = random.floats(n, 10 ** (step - 3));
        const gradients = upload(device, "f32", [n], g);
        const scaled = step % 2 === 0;
        const values = { parameters, copy: scaled ? copy : null, gradients, scale: scaled ? scale : null };
        adamw(device, values, m, v, { ...options, step });
        reference(state, g, scaled ? 0.375 : 1, { ...options, step });
        const p = device.readFloats(parameters);
        expectClose(p, state.p, 1e-6, `p after step ${step}`);
        expectClose(device.readFloats(m), state.m, 1e-6, "m");
        expectClose(device.readFloats(v), state.v, 1e-6, "v");
        if (scaled) expect(device.readFloats(copy), "copy").toEqual(roundTo("bf16", p));
        expect(device.readFloats(gradients), "gradients stay").toEqual(g);
        device.free(gradients.ptr);
      }
    });
  }

  test("without gradient only the decay moves a parameter; step 1 moves by lr against the gradient's sign", () => {
    const { parameters, m, v } = setUp(device, 3);
    device.write(parameters, Float32Array.of(1, 1, 1));
    const gradients = upload(device, "f32", [3], Float32Array.of(0, 5, -0.25));
    const values = { parameters, copy: null, gradients, scale: null };
    adamw(device, values, m, v, { ...options, epsilon: 0, weightDecay: 0 });
    const [still, down, up] = device.readFloats(parameters) as unknown as [number, number, number];
    expect(Number.isNaN(still)).toBe(true); // 0 / 0: why eps exists
    expect(down).toBeCloseTo(0.99, 6);
    expect(up).toBeCloseTo(1.01, 6);
    device.write(parameters, Float32Array.of(1, 1, 1));
    device.fill(m, 0);
    device.fill(v, 0);
    device.fill(gradients, 0);
    adamw(device, values, m, v, options);
    expectClose(device.readFloats(parameters), [0.999, 0.999, 0.999], 1e-7);
  });

  for (const n of [1, 3, 17, 65, 129, 16385, 300007]) {
    test(`gradient norm of ${n} values`, () => {
      const values = new Random(n).floats(n, 3);
      const want = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));
      const gradients = upload(device, "f32", [n], values);
      const result = poisoned(device, "f32", [2]);
      for (const [maxNorm, factor] of [
        [0, 1],
        [-1, 1],
        [1e9, 1],
        [want / 3, want / 3 / (want + 1e-6)],
      ] as const) {
        gradientNorm(device, result, gradients, maxNorm);
        expectClose(device.readFloats(result).subarray(0, 1), [want], 1e-7, "norm");
        expectClose(device.readFloats(result).subarray(1), [factor], 2e-7, `factor for ${maxNorm}`);
      }
      const first = device.readBytes(result);
      gradientNorm(device, result, gradients, want / 3);
      expect(device.readBytes(result)).toEqual(first);
    });
  }

  test("the norm neither overflows nor hides what is not finite", () => {
    const result = poisoned(device, "f32", [2]);
    const norm = (values: number[]) => {
      gradientNorm(device, result, upload(device, "f32", [values.length], Float32Array.from(values)), 1);
      return Array.from(device.readFloats(result));
    };
    expectClose(norm([3e30, 4e30]), [5e30, 2e-31], 1e-6);
    expect(norm([Number.POSITIVE_INFINITY, 1])).toEqual([Number.POSITIVE_INFINITY, 0]);
    expect(norm([1, Number.NaN])).toEqual([Number.NaN, Number.NaN]);
  });

  test("zero sizes write nothing; bad arguments are refused", () => {
    const result = poisoned(device, "f32", [2]);
    device.call("nt_gradient_norm", result.ptr, null, 0, 1);
    expect(device.readFloats(result).every(Number.isNaN)).toBe(true);
    const x = upload(device, "f32", [1], Float32Array.of(1));
    const step = (n: number, beta: number, step: number) => () =>
      device.call("nt_adamw", x.ptr, null, x.ptr, x.ptr, x.ptr, n, 1, beta, 0.5, 0, 0, step, null);
    step(0, 0.9, 1)();
    expect(device.readFloats(x)).toEqual(Float32Array.of(1));
    expect(step(1, 0.9, 0)).toThrow("adamw: step counts from 1, got 0");
    expect(step(1, 1, 1)).toThrow("adamw: betas must be in [0, 1), got 1 and 0.5");
    expect(step(-1, 0.9, 1)).toThrow("adamw: n must be ≥ 0, got -1");
    expect(() => device.call("nt_gradient_norm", null, x.ptr, 1, 1)).toThrow("must not be null");
  });
});
