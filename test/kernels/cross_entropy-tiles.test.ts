// The head's loss of many tokens in bf16, where the CPU's logits exist by tiles with running maxima.

import { expect, test } from "bun:test";
import { crossEntropyWorkspace, Device, linearCrossEntropy, Weight } from "../../src/native/index.ts";
import { loadCpuLibrary } from "../../src/native/library.ts";
import { type Case, reference } from "./cross_entropy-reference.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { expectClose, Random, roundTo } from "./numbers.ts";

const scale = 1 / 5;
const dtype = "bf16";

interface Inputs extends Case {
  x: Float32Array;
  w: Float32Array;
  targets: Int32Array;
}

function inputs(one: Case, shape: (w: Float32Array, x: Float32Array) => void = () => {}): Inputs {
  const { T, H, V, rows } = one;
  const random = new Random(T + V);
  const x = random.floats(T * H);
  const w = random.floats(V * H);
  shape(w, x);
  const targets = Int32Array.from(rows, () => random.integer(V));
  return { ...one, x: roundTo(dtype, x), w: roundTo(dtype, w), targets };
}

function run(device: Device, { T, H, V, rows, x, w, targets }: Inputs, withDx = true) {
  const weight = Weight.dense(device, upload(device, dtype, [V, H], w));
  const workspace = poisoned(device, "f32", [crossEntropyWorkspace(device, dtype, rows.length, H, V) / 4]);
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
};

forEachBackend((device, name) => {
  if (!name.startsWith("cpu")) return;
  for (const [title, one] of Object.entries(cases))
    test(title, () => {
      const given = inputs(one);
      const wanted = reference(given.x, given.w, one, given.targets, scale);
      const got = run(device, given);
      expectClose(got.losses, wanted.losses, 1e-6, "losses");
      expectClose(got.dx!, wanted.dx, 6e-3, "dx");
      expect(run(device, given, false).losses).toEqual(got.losses);
    });

  // Each third of the vocabulary has larger logits than the one before, by more than a maximum may lag behind.
  test("maxima that rise along the vocabulary", () => {
    const one: Case = { T: 80, H: 12, V: 900, rows: every(80) };
    const given = inputs(one, (w, x) => {
      for (let t = 0; t < one.T; t++) x[t * one.H] = 8 + (t % 5);
      for (let v = 0; v < one.V; v++) w[v * one.H] = 3 * Math.floor(v / 300) - (v % 2);
    });
    const wanted = reference(given.x, given.w, one, given.targets, scale);
    const got = run(device, given);
    expectClose(got.losses, wanted.losses, 1e-6, "losses");
    expectClose(got.dx!, wanted.dx, 6e-3, "dx");
  });

  test("losses near 0 keep their digits; a vocabulary of one has none", () => {
    const one: Case = { T: 64, H: 2, V: 200, rows: every(64) };
    const given = inputs(one, (w, x) => {
      for (let t = 0; t < one.T; t++) x.set([1, 0], t * 2);
      for (let v = 0; v < one.V; v++) w.set([v === 150 ? 0 : -18, 0], v * 2);
    });
    given.targets.fill(150);
    const { losses, dx } = run(device, given);
    for (const loss of losses)
      expect(Math.abs(loss / Math.log1p(199 * Math.exp(-18)) - 1)).toBeLessThan(1e-6);
    const wanted = reference(given.x, given.w, one, given.targets, scale);
    expectClose(dx!, wanted.dx, 6e-3, "dx");
    const alone = run(device, { ...given, V: 1, w: given.w.slice(0, 2), targets: new Int32Array(64) });
    expect([...alone.losses, ...alone.dx!].every((value) => value === 0)).toBe(true);
  });

  test("a logit that is no number makes its token's loss none, and no other's", () => {
    const one: Case = { T: 70, H: 4, V: 150, rows: every(70) };
    const given = inputs(one, (_, x) => x.fill(NaN, 66 * 4, 67 * 4));
    const { losses, dx } = run(device, given);
    for (const values of [losses, dx!])
      values.forEach((value, i) => {
        expect(Number.isNaN(value)).toBe(Math.floor((i / values.length) * 70) === 66);
      });
  });

  // Few tokens are taken by plain products.
  test.each([70, 5])("infinite logits give %d tokens what PyTorch's loss gives", (T) => {
    const [V, own] = [150, 140];
    const given = inputs({ T, H: 1, V, rows: every(T) }, (w, x) => {
      w.fill(0);
      w[own] = 2;
      x.fill(1);
      x.set([3e38, -3e38, 3e38, -3e38]); // Twice that is infinite.
    });
    given.targets.fill(7);
    given.targets.fill(own, 0, 2);
    const { losses, dx } = run(device, given);
    expect([...losses.subarray(0, 3)]).toEqual([NaN, Infinity, NaN]);
    expect(losses[3]).toBeCloseTo(Math.log(V - 1), 5);
    expect(losses[4]).toBeCloseTo(Math.log(V - 1 + Math.exp(2)), 5);
    expect([dx![0], dx![2], dx![3]]).toEqual([NaN, NaN, 0]);
    expect(dx![1]).toBeCloseTo(-2 * scale, 2);
  });

  const isa = name.split(" ")[1]!;
  // Without bf16 instructions there are no tiles, and oneDNN's products in float32 may depend on the number of threads.
  test.skipIf(isa !== "avx512_bf16")("the same bits with one thread, two and five", () => {
    const given = inputs({ T: 330, H: 48, V: 500, rows: every(330) });
    const wanted = run(device, given);
    for (const threads of [1, 5]) {
      const other = Device.open({
        threads,
        library: loadCpuLibrary({ ...process.env, NEFTUNE_CPU_ISA: isa }),
      });
      expect(run(other, given)).toEqual(wanted);
      other.close();
    }
  });
});
