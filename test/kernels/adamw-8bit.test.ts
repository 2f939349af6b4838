import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import {
  type AdamWOptions,
  type AdamWValues,
  adamw8bit,
  type Device,
  type Moment8bit,
  stateBlock,
} from "../../src/native/index.ts";
import { forEachBackend, poisoned, upload, uploadInts } from "./harness.ts";
import { expectClose, Random, roundTo } from "./numbers.ts";

interface Golden {
  signed: number[];
  unsigned: number[];
  adamw8bit: {
    n: number;
    learning_rate: number;
    beta1: number;
    beta2: number;
    epsilon: number;
    weight_decay: number;
    every: number;
    steps: Record<"p" | "m_codes" | "v_codes" | "m_absmax" | "v_absmax", number[]>[];
  };
}

/** What bitsandbytes' create_dynamic_map and AdamW8bit give. */
const golden: Golden = JSON.parse(readFileSync(new URL("../golden/adamw8bit.json", import.meta.url), "utf8"));
const maps = { m: Float32Array.from(golden.signed), v: Float32Array.from(golden.unsigned) };

const options: AdamWOptions = {
  learningRate: 1e-2,
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-6,
  weightDecay: 0.1,
  step: 1,
};

interface HostMoment {
  codes: Uint8Array;
  absmax: Float32Array;
}

function uploadMoment(device: Device, { codes, absmax }: HostMoment): Moment8bit {
  const words = new Int32Array(Math.ceil(codes.length / 4));
  new Uint8Array(words.buffer).set(codes);
  return {
    codes: uploadInts(device, words),
    absmax: upload(device, "f32", [absmax.length], absmax),
  };
}

const readMoment = (device: Device, { codes, absmax }: Moment8bit, n: number): HostMoment => ({
  codes: device.readBytes(codes).subarray(0, n),
  absmax: device.readFloats(absmax),
});

const zeros = (n: number): HostMoment => ({
  codes: new Uint8Array(n),
  absmax: new Float32Array(Math.ceil(n / stateBlock)),
});

const widen = ({ codes, absmax }: HostMoment, map: Float32Array) =>
  Float64Array.from(codes, (code, i) => Math.fround(map[code]! * absmax[Math.floor(i / stateBlock)]!));

/** One step of torch.optim.AdamW in float64 on moments as given; they change in place. */
function reference(
  p: Float32Array,
  g: Float32Array,
  m: Float64Array,
  v: Float64Array,
  scale: number,
  o: AdamWOptions,
): Float64Array {
  const [lr, b1, b2] = [o.learningRate, o.beta1, o.beta2].map(Math.fround) as [number, number, number];
  const [eps, decay] = [Math.fround(o.epsilon), Math.fround(o.weightDecay)];
  return Float64Array.from(p, (value, i) => {
    const gradient = g[i]! * scale;
    m[i] = b1 * m[i]! + (1 - b1) * gradient;
    v[i] = b2 * v[i]! + (1 - b2) * gradient ** 2;
    const denominator = Math.sqrt(v[i]! / (1 - b2 ** o.step)) + eps;
    return value * (1 - lr * decay) - ((lr / (1 - b1 ** o.step)) * m[i]!) / denominator;
  });
}

/** Each block's absmax is its largest value's, and each code is the nearest, but for a v that would become 0. */
function expectRounded(got: HostMoment, want: Float64Array, kind: "m" | "v"): void {
  const map = maps[kind];
  for (let block = 0; block < got.absmax.length; block++) {
    const values = want.subarray(block * stateBlock, (block + 1) * stateBlock);
    const absmax = values.reduce((top, x) => Math.max(top, Math.abs(x)), 0);
    expectClose(got.absmax.subarray(block, block + 1), [absmax], 1e-6, `absmax of ${kind}`);
    values.forEach((x, i) => {
      const code = got.codes[block * stateBlock + i]!;
      const s = absmax === 0 ? 0 : x / absmax;
      const least = kind === "v" && x > 0 ? 1 : 0;
      const distance = (to: number) => Math.abs(s - map[Math.min(255, Math.max(least, to))]!);
      if (code < least || distance(code) > Math.min(distance(code - 1), distance(code + 1)) + 1e-6)
        throw new Error(`${kind}[${i}] of block ${block} is ${x} of ${absmax}, and has the code ${code}`);
    });
  }
}

/** The code of x / absmax in a map as bitsandbytes' kernels find it: the upper one where x is above the middle, in float32. */
function nearestCode(map: Float32Array, x: number, absmax: number): number {
  const s = Math.fround(x / absmax);
  const isAbove = (_: number, code: number) =>
    code < 255 && s > Math.fround(0.5 * Math.fround(map[code]! + map[code + 1]!));
  return map.filter(isAbove).length;
}

/** A float32 and its neighbors. */
function neighbors(x: number): number[] {
  const bits = new Int32Array(Float32Array.of(x).buffer)[0]!;
  return [...new Float32Array(Int32Array.from([-2, -1, 0, 1, 2], (step) => bits + step).buffer)];
}

forEachBackend((device) => {
  const step = (values: AdamWValues, m: Moment8bit, v: Moment8bit, o: AdamWOptions) =>
    adamw8bit(device, values, m, v, o);

  for (const n of [1, 3, 255, 256, 257, 700, 2051]) {
    test(`four steps of AdamW with 8-bit moments on ${n} values`, () => {
      const random = new Random(n);
      let p = random.floats(n);
      const parameters = upload(device, "f32", [n], p);
      const copy = poisoned(device, "bf16", [n]);
      const scale = upload(device, "f32", [1], Float32Array.of(0.375));
      const [m, v] = [uploadMoment(device, zeros(n)), uploadMoment(device, zeros(n))];
      for (let t = 1; t <= 4; t++) {
        // Blocks of very different sizes, and some values without a gradient.
        const g = random.floats(n, 10 ** (t - 3)).map((x, i) => (i % 7 === 3 ? 0 : x * 10 ** -(i >> 9)));
        const gradients = upload(device, "f32", [n], g);
        const isScaled = t % 2 === 0;
        const [first, second] = [
          widen(readMoment(device, m, n), maps.m),
          widen(readMoment(device, v, n), maps.v),
        ];
        const values = {
          parameters,
          copy: isScaled ? copy : null,
          gradients,
          scale: isScaled ? scale : null,
        };
        step(values, m, v, { ...options, step: t });
        const want = reference(p, g, first, second, isScaled ? 0.375 : 1, { ...options, step: t });
        p = device.readFloats(parameters);
        expectClose(p, want, 2e-6, `p after step ${t}`);
        expectRounded(readMoment(device, m, n), first, "m");
        expectRounded(readMoment(device, v, n), second, "v");
        if (isScaled) expect(device.readFloats(copy), "copy").toEqual(roundTo("bf16", p));
        device.free(gradients.ptr);
      }
    });
  }

  test("the maps are bitsandbytes'", () => {
    const codes = Uint8Array.from({ length: 256 }, (_, i) => i);
    const one = Float32Array.of(1);
    const constant = (code: number): HostMoment => ({ codes: new Uint8Array(256).fill(code), absmax: one });
    const moved = (m: HostMoment, v: HostMoment, o: Partial<AdamWOptions>) => {
      const parameters = upload(device, "f32", [256], new Float32Array(256));
      const gradients = upload(device, "f32", [256], new Float32Array(256));
      const values = { parameters, copy: null, gradients, scale: null };
      const halves = { ...options, beta1: 0.5, beta2: 0.5, weightDecay: 0, ...o };
      step(values, uploadMoment(device, m), uploadMoment(device, v), halves);
      return device.readFloats(parameters);
    };
    // p = −lr/(1 − β₁) · β₁·m / eps, exactly −m/2; then −lr/(1 − β₁) · β₁ / (sqrt(β₂·v / (1 − β₂))) = −1 / sqrt(v).
    const first = moved({ codes, absmax: one }, zeros(256), { learningRate: 0.5, epsilon: 1 });
    expect(first.map((x) => -2 * x + 0)).toEqual(maps.m);
    const second = moved(constant(255), { codes, absmax: one }, { learningRate: 1, epsilon: 0 });
    expectClose(
      second.subarray(1),
      maps.v.subarray(1).map((v) => -1 / Math.sqrt(v)),
      1e-6,
    );
  });

  test.each([1, 3e-5])("codes around every middle, in blocks whose absmax is %p", (absmax) => {
    // With betas of 0 the moments are g and g².
    const middles = (map: Float32Array) => Array.from(map.subarray(1), (x, i) => 0.5 * (x + map[i]!));
    const moments = [
      ...middles(maps.m).flatMap((x) => neighbors(x * absmax)),
      ...middles(maps.v).flatMap((x) => neighbors(Math.sqrt(x) * absmax)),
      ...[0, -0, absmax, 1e-9 * absmax, -1e-9 * absmax],
    ].filter((x) => Math.abs(x) <= absmax);
    const g = Float32Array.from({ length: Math.ceil(moments.length / 255) * stateBlock }, (_, i) =>
      i % stateBlock === 0 ? absmax : (moments[i - Math.ceil(i / stateBlock)] ?? 0),
    );
    const n = g.length;
    const [m, v] = [uploadMoment(device, zeros(n)), uploadMoment(device, zeros(n))];
    const parameters = upload(device, "f32", [n], new Float32Array(n));
    const values = { parameters, copy: null, gradients: upload(device, "f32", [n], g), scale: null };
    step(values, m, v, { ...options, beta1: 0, beta2: 0 });
    const top = g[0]!;
    expect([...readMoment(device, m, n).codes]).toEqual(Array.from(g, (x) => nearestCode(maps.m, x, top)));
    const want = Array.from(g, (x) =>
      Math.max(nearestCode(maps.v, Math.fround(x * x), Math.fround(top * top)), x === 0 ? 0 : 1),
    );
    expect([...readMoment(device, v, n).codes]).toEqual(want);
  });

  test("five steps are bitsandbytes', but for second moments that fall to 0 there", () => {
    const { n, every, steps, ...o } = golden.adamw8bit;
    const start = Float32Array.from({ length: n }, (_, i) => (((i * 733) % 1999) - 999) / 1024);
    const parameters = upload(device, "f32", [n], start);
    const [m, v] = [uploadMoment(device, zeros(n)), uploadMoment(device, zeros(n))];
    const picked = <T>(values: ArrayLike<T>) => Array.from(values).filter((_, i) => i % every === 0);
    steps.forEach((want, i) => {
      const t = i + 1;
      const g = Float32Array.from(
        { length: n },
        (_, i) => (((i * 7919 + t * 104729) % 2003) - 1001) / 1024 / 2 ** ((i * 31 + t * 17) % 8),
      );
      const values = { parameters, copy: null, gradients: upload(device, "f32", [n], g), scale: null };
      const [learningRate, epsilon, weightDecay] = [o.learning_rate, o.epsilon, o.weight_decay];
      step(values, m, v, { ...o, learningRate, epsilon, weightDecay, step: t });
      expectClose(
        Float32Array.from(picked(device.readFloats(parameters))),
        want.p,
        1e-6,
        `p after step ${t}`,
      );
      for (const [moment, kind] of [
        [m, "m"],
        [v, "v"],
      ] as const) {
        const got = readMoment(device, moment, n);
        expectClose(got.absmax, want[`${kind}_absmax`], 1e-6, `absmax of ${kind}`);
        const least = kind === "v" ? 1 : 0; // a second moment does not fall to 0 here
        const codes = want[`${kind}_codes`].map((code) => Math.max(code, least));
        expect(picked(got.codes), `codes of ${kind} after step ${t}`).toEqual(codes);
      }
    });
  });

  test("what is not finite shows in its block's absmax, and only there", () => {
    const n = 3 * stateBlock;
    const g = new Float32Array(n).fill(0.5);
    g[300] = Number.NaN;
    g[600] = Number.POSITIVE_INFINITY;
    const parameters = upload(device, "f32", [n], new Float32Array(n));
    const [m, v] = [uploadMoment(device, zeros(n)), uploadMoment(device, zeros(n))];
    step({ parameters, copy: null, gradients: upload(device, "f32", [n], g), scale: null }, m, v, options);
    for (const moment of [m, v]) {
      const { absmax } = readMoment(device, moment, n);
      expect(Array.from(absmax, Number.isFinite)).toEqual([true, false, false]);
    }
  });

  test("a second moment above 0 does not fall to 0, so that a value without gradient stays in place", () => {
    const g = new Float32Array(256).fill(1e-4);
    g[0] = 1;
    const parameters = upload(device, "f32", [256], new Float32Array(256));
    const [m, v] = [uploadMoment(device, zeros(256)), uploadMoment(device, zeros(256))];
    const still = { ...options, weightDecay: 0, epsilon: 1e-8 };
    const run = (gradients: Float32Array, t: number) =>
      step(
        { parameters, copy: null, gradients: upload(device, "f32", [256], gradients), scale: null },
        m,
        v,
        {
          ...still,
          step: t,
        },
      );
    run(g, 1);
    run(new Float32Array(256), 2);
    for (const p of device.readFloats(parameters)) expect(Math.abs(p)).toBeLessThan(3 * options.learningRate);
  });

  test("zero sizes write nothing; what does not fit is refused", () => {
    const parameters = upload(device, "f32", [300], new Float32Array(300).fill(1));
    const [m, v] = [uploadMoment(device, zeros(300)), uploadMoment(device, zeros(300))];
    const values = { parameters, copy: null, gradients: parameters, scale: null };
    step({ ...values, parameters: parameters.rows(0, 0) }, m, v, options);
    expect(device.readFloats(parameters)).toEqual(new Float32Array(300).fill(1));
    const short = { ...m, absmax: m.absmax.rows(0, 1) };
    expect(() => step(values, short, v, options)).toThrow(
      "adamw_8bit: m's absmax must be f32[2], got f32[1]",
    );
    const few = { ...v, codes: v.codes.rows(0, 74) };
    expect(() => step(values, m, few, options)).toThrow("adamw_8bit: v must be i32[75], got i32[74]");
  });
});
