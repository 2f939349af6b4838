// The head's loss of many tokens, where the CPU's logits exist by tiles with running maxima.

import { describe, expect, test } from "bun:test";
import { crossEntropyWorkspace, Device, linearCrossEntropy, Weight } from "../../src/native/index.ts";
import { loadCpuLibrary } from "../../src/native/library.ts";
import { type Case, reference } from "./cross_entropy-reference.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { expectClose, Random, roundTo } from "./numbers.ts";

const scale = 1 / 5;
const dtypes = ["bf16", "f32"] as const;
type DType = (typeof dtypes)[number];
const limits = { bf16: 6e-3, f32: 5e-6 };

interface Inputs extends Case {
  x: Float32Array;
  w: Float32Array;
  targets: Int32Array;
}

function inputs(
  dtype: DType,
  one: Case,
  shape: (w: Float32Array, x: Float32Array) => void = () => {},
): Inputs {
  const { T, H, V, rows } = one;
  const random = new Random(T + V);
  const x = random.floats(T * H);
  const w = random.floats(V * H);
  shape(w, x);
  const targets = Int32Array.from(rows, () => random.integer(V));
  return { ...one, x: roundTo(dtype, x), w: roundTo(dtype, w), targets };
}

function run(device: Device, dtype: DType, { T, H, V, rows, x, w, targets }: Inputs, withDx = true) {
  const weight = Weight.dense(device, upload(device, dtype, [V, H], w));
  const bytes = crossEntropyWorkspace(device, dtype, rows.length, H, V, false);
  const workspace = poisoned(device, "f32", [bytes / 4]);
  const losses = poisoned(device, "f32", [rows.length]);
  const dx = withDx ? poisoned(device, dtype, [T, H]) : null;
  const gradient = dx === null ? null : { dx, dweight: null, scale };
  const xs = upload(device, dtype, [T, H], x);
  linearCrossEntropy(device, losses, xs, weight, Int32Array.from(rows), targets, workspace, gradient);
  weight.destroy();
  return { losses: device.readFloats(losses), dx: dx === null ? null : device.readFloats(dx) };
}

const every = (T: number) => Array.from({ length: T }, (_, i) => i);
const cases: Record<string, Case> = {
  "whole panels and tiles": { T: 64, H: 64, V: 256, rows: every(64) },
  "parts of panels and tiles": { T: 101, H: 37, V: 331, rows: every(101) },
  "fewer words than a tile has rows": { T: 90, H: 8, V: 3, rows: every(90) },
  "two words, every third row": { T: 300, H: 20, V: 130, rows: every(300).filter((i) => i % 3 === 1) },
  "more tokens than share a reading of the weight": { T: 700, H: 16, V: 140, rows: every(700) },
  "more inputs than a tile of the usual height holds": { T: 75, H: 1031, V: 203, rows: every(75) },
};

forEachBackend((device, name) => {
  if (!name.startsWith("cpu")) return;
  const isa = name.split(" ")[1]!;
  describe.each(dtypes)("%s", (dtype) => {
    const limit = limits[dtype];
    for (const [title, one] of Object.entries(cases))
      test(title, () => {
        // Logits of a size that float32 holds to some digits behind the point, however many inputs there are.
        const given = inputs(dtype, one, (w) => {
          for (let i = 0; i < w.length; i++) w[i]! /= Math.sqrt(1 + one.H / 64);
        });
        const wanted = reference(given.x, given.w, one, given.targets, scale);
        const got = run(device, dtype, given);
        expectClose(got.losses, wanted.losses, 1e-6, "losses");
        expectClose(got.dx!, wanted.dx, limit, "dx");
        expect(run(device, dtype, given, false).losses).toEqual(got.losses);
      });

    // Each third of the vocabulary has larger logits than the one before, by more than a maximum may lag behind.
    test("maxima that rise along the vocabulary", () => {
      const one: Case = { T: 80, H: 12, V: 900, rows: every(80) };
      const given = inputs(dtype, one, (w, x) => {
        for (let t = 0; t < one.T; t++) x[t * one.H] = 8 + (t % 5);
        for (let v = 0; v < one.V; v++) w[v * one.H] = 3 * Math.floor(v / 300) - (v % 2);
      });
      const wanted = reference(given.x, given.w, one, given.targets, scale);
      const got = run(device, dtype, given);
      expectClose(got.losses, wanted.losses, 1e-6, "losses");
      expectClose(got.dx!, wanted.dx, limit, "dx");
    });

    test("losses near 0 keep their digits; a vocabulary of one has none", () => {
      const one: Case = { T: 64, H: 2, V: 200, rows: every(64) };
      const given = inputs(dtype, one, (w, x) => {
        for (let t = 0; t < one.T; t++) x.set([1, 0], t * 2);
        for (let v = 0; v < one.V; v++) w.set([v === 150 ? 0 : -18, 0], v * 2);
      });
      given.targets.fill(150);
      const { losses, dx } = run(device, dtype, given);
      for (const loss of losses)
        expect(Math.abs(loss / Math.log1p(199 * Math.exp(-18)) - 1)).toBeLessThan(1e-6);
      const wanted = reference(given.x, given.w, one, given.targets, scale);
      expectClose(dx!, wanted.dx, limit, "dx");
      const alone = run(device, dtype, {
        ...given,
        V: 1,
        w: given.w.slice(0, 2),
        targets: new Int32Array(64),
      });
      expect([...alone.losses, ...alone.dx!].every((value) => value === 0)).toBe(true);
    });

    test("a logit that is no number makes its token's loss none, and no other's", () => {
      const one: Case = { T: 70, H: 4, V: 150, rows: every(70) };
      const given = inputs(dtype, one, (_, x) => x.fill(NaN, 66 * 4, 67 * 4));
      const { losses, dx } = run(device, dtype, given);
      for (const values of [losses, dx!])
        values.forEach((value, i) => {
          expect(Number.isNaN(value)).toBe(Math.floor((i / values.length) * 70) === 66);
        });
    });

    // Few tokens are taken by plain products.
    test.each([70, 5])("infinite logits give %d tokens what PyTorch's loss gives", (T) => {
      const [V, own] = [150, 140];
      const given = inputs(dtype, { T, H: 1, V, rows: every(T) }, (w, x) => {
        w.fill(0);
        w[own] = 2;
        x.fill(1);
        x.set([3e38, -3e38, 3e38, -3e38]); // Twice that is infinite.
      });
      given.targets.fill(7);
      given.targets.fill(own, 0, 2);
      const { losses, dx } = run(device, dtype, given);
      expect([...losses.subarray(0, 3)]).toEqual([NaN, Infinity, NaN]);
      expect(losses[3]).toBeCloseTo(Math.log(V - 1), 5);
      expect(losses[4]).toBeCloseTo(Math.log(V - 1 + Math.exp(2)), 5);
      expect([dx![0], dx![2], dx![3]]).toEqual([NaN, NaN, 0]);
      expect(dx![1]).toBeCloseTo(-2 * scale, 2);
    });

    test("the same bits with one thread, two and five, and among fewer tokens", () => {
      const H = 48;
      const given = inputs(dtype, { T: 330, H, V: 500, rows: every(330) });
      const wanted = run(device, dtype, given);
      for (const threads of [1, 5]) {
        const library = loadCpuLibrary({ ...process.env, NEFTUNE_CPU_ISA: isa });
        const other = Device.open({ threads, library });
        expect(run(other, dtype, given)).toEqual(wanted);
        other.close();
      }
      const [first, last] = [251, 318];
      const some = {
        ...given,
        rows: given.rows.slice(first, last),
        targets: given.targets.slice(first, last),
      };
      const got = run(device, dtype, some);
      expect(got.losses).toEqual(wanted.losses.slice(first, last));
      expect(got.dx!.subarray(first * H, last * H)).toEqual(wanted.dx!.subarray(first * H, last * H));
    });

    test("needs logits in memory only for few tokens, or for the weight's gradient", () => {
      const bytes = (rows: number, withDweight: boolean) =>
        crossEntropyWorkspace(device, dtype, rows, 64, 1000, withDweight);
      expect(bytes(5000, true)).toBe(bytes(256, true));
      expect(bytes(5000, false)).toBe(bytes(63, true));
      expect(bytes(20, false)).toBe(bytes(20, true));
    });
  });
});
