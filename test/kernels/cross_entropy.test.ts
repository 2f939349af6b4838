import { expect, test } from "bun:test";
import { crossEntropyWorkspace, linearCrossEntropy, type Tensor, Weight } from "../../src/native/index.ts";
import { type Case, reference } from "./cross_entropy-reference.ts";
import { forEachBackend, poisoned, upload } from "./harness.ts";
import { expectClose, Random, roundTo, slopes } from "./numbers.ts";

const every = (T: number) => Array.from({ length: T }, (_, i) => i);
const cases: Case[] = [
  { T: 1, H: 1, V: 1, rows: [0] },
  { T: 3, H: 17, V: 5, rows: [1] },
  { T: 17, H: 65, V: 129, rows: [0, 2, 3, 9, 16] },
  { T: 61, H: 33, V: 300, rows: every(61) },
  { T: 12, H: 24, V: 4133, rows: [3, 4, 5, 11] },
  { T: 4, H: 8, V: 8203, rows: [0, 2] },
  { T: 4, H: 10, V: 20_011, rows: [0, 2] },
];
const scale = 1 / 7;

forEachBackend((device) => {
  for (const dtype of ["f32", "bf16"] as const) {
    for (const one of cases) {
      const { T, H, V, rows } = one;
      const n = rows.length;
      const random = new Random(T + V);
      const x = roundTo(dtype, random.floats(T * H));
      const w = roundTo(dtype, random.floats(V * H));
      const targets = Int32Array.from(rows, () => random.integer(V));
      const wanted = reference(x, w, one, targets, scale);
      const limit = dtype === "f32" ? 5e-6 : 6e-3;

      for (const rowsOfWorkspace of [n, 1, 4]) {
        test(`${dtype}, T ${T}, H ${H}, V ${V}, ${n} rows, workspace for ${rowsOfWorkspace}`, () => {
          const weight = Weight.dense(device, upload(device, dtype, [V, H], w));
          const bytes = crossEntropyWorkspace(device, dtype, rowsOfWorkspace, H, V, true);
          const workspace = poisoned(device, "f32", [bytes / 4]);
          const start = random.floats(V * H, 0.01);
          const run = (withDx: boolean, withDweight: boolean) => {
            const losses = poisoned(device, "f32", [n]);
            const dx = withDx ? poisoned(device, dtype, [T, H]) : null;
            const dweight = withDweight ? upload(device, "f32", [V, H], start) : null;
            linearCrossEntropy(
              device,
              losses,
              upload(device, dtype, [T, H], x),
              weight,
              Int32Array.from(rows),
              targets,
              workspace,
              withDx || withDweight ? { dx, dweight, scale } : null,
            );
            const read = (tensor: Tensor | null) => (tensor === null ? null : device.readFloats(tensor));
            return { losses: device.readFloats(losses), dx: read(dx), dweight: read(dweight) };
          };
          const both = run(true, true);
          expectClose(both.losses, wanted.losses, 1e-6, "losses");
          expectClose(both.dx!, wanted.dx, limit, "dx");
          expectClose(
            both.dweight!.map((value, i) => value - start[i]!),
            wanted.dweight,
            limit,
            "dweight",
          );
          expect(run(true, true)).toEqual(both);
          expect(run(true, false)).toEqual({ ...both, dweight: null });
          expect(run(false, true)).toEqual({ ...both, dx: null });
          expect(run(false, false).losses).toEqual(both.losses);
          weight.destroy();
        });
      }
    }
  }

  test("a loss near 0 keeps its digits, and large logits do not overflow", () => {
    // One input of 1: logits are the weight's column.
    const logits = [...Array.from({ length: 40 }, (_, j) => -12 - j / 7), 0, ...[-300, 5e3, -5e3]];
    const V = logits.length;
    const weightOf = (values: number[]) =>
      Weight.dense(device, upload(device, "f32", [V, 1], Float32Array.from(values)));
    const workspace = poisoned(device, "f32", [1000]);
    const lossOf = (values: number[], target: number) => {
      const losses = poisoned(device, "f32", [1]);
      const x = upload(device, "f32", [1, 1], Float32Array.of(1));
      const weight = weightOf(values);
      linearCrossEntropy(device, losses, x, weight, Int32Array.of(0), Int32Array.of(target), workspace);
      weight.destroy();
      return device.readFloats(losses)[0]!;
    };
    const moderate = logits.map((l) => Math.fround(Math.abs(l) > 1000 ? -40 : l));
    const others = moderate.reduce((sum, l, j) => (j === 40 ? sum : sum + Math.exp(l)), 0);
    expect(Math.abs(lossOf(moderate, 40) / Math.log1p(others) - 1)).toBeLessThan(1e-6);
    expect(lossOf(logits, V - 1)).toBe(1e4);
    expect(lossOf(logits, V - 2)).toBe(0);
  });

  test("dx and dweight are the slopes of the summed loss", () => {
    const one: Case = { T: 4, H: 5, V: 7, rows: [0, 2, 3] };
    const random = new Random(9);
    const x = random.floats(one.T * one.H);
    const w = random.floats(one.V * one.H);
    const targets = Int32Array.of(6, 0, 3);
    const loss = (xs: Float64Array | Float32Array, ws: Float64Array | Float32Array) =>
      scale *
      reference(xs as Float32Array, ws as Float32Array, one, targets, scale).losses.reduce(
        (a, b) => a + b,
        0,
      );
    const weight = Weight.dense(device, upload(device, "f32", [one.V, one.H], w));
    const dx = poisoned(device, "f32", [one.T, one.H]);
    const dweight = upload(device, "f32", [one.V, one.H], new Float32Array(one.V * one.H));
    const xTensor = upload(device, "f32", [one.T, one.H], x);
    const workspace = poisoned(device, "f32", [1000]);
    linearCrossEntropy(
      device,
      poisoned(device, "f32", [3]),
      xTensor,
      weight,
      Int32Array.from(one.rows),
      targets,
      workspace,
      {
        dx,
        dweight,
        scale,
      },
    );
    expectClose(
      device.readFloats(dx),
      slopes(Float64Array.from(x), (changed) => loss(changed, w), 1e-4),
      1e-5,
      "dx",
    );
    expectClose(
      device.readFloats(dweight),
      slopes(Float64Array.from(w), (changed) => loss(x, changed), 1e-4),
      1e-5,
      "dweight",
    );
    weight.destroy();
  });

  test("no targets: dx is zeroed; bad rows, targets and workspaces are refused before anything is written", () => {
    const weight = Weight.dense(device, upload(device, "f32", [4, 3], new Float32Array(12)));
    const x = upload(device, "f32", [5, 3], new Float32Array(15));
    const workspace = poisoned(device, "f32", [1000]);
    const losses = poisoned(device, "f32", [5]);
    const dx = poisoned(device, "f32", [5, 3]);
    const run = (rows: number[], targets: number[], space = workspace) =>
      linearCrossEntropy(
        device,
        losses.rows(0, rows.length),
        x,
        weight,
        Int32Array.from(rows),
        Int32Array.from(targets),
        space,
        {
          dx,
          dweight: null,
          scale: 1,
        },
      );
    expect(() => run([0, 1], [0, 4])).toThrow("a target must be within 0 … 3, got 4 at row 1");
    expect(() => run([0, 1], [-100, 0])).toThrow("got -100 at row 0");
    expect(() => run([1, 1], [0, 0])).toThrow("rows must ascend");
    expect(() => run([2, 5], [0, 0])).toThrow("got 5 at 1");
    expect(() => run([-1], [0])).toThrow("got -1 at 0");
    expect(() => run([0], [0], workspace.rows(0, 4))).toThrow("needs a workspace of at least");
    for (const value of device.readFloats(dx)) expect(value).toBeNaN();
    for (const value of device.readFloats(losses)) expect(value).toBeNaN();
    run([], []);
    expect(device.readFloats(dx)).toEqual(new Float32Array(15));
    weight.destroy();
  });

  // What PyTorch 2.15 gives: the logits of a row are w, which the row's x multiplies.
  test.each(["f32", "bf16"] as const)("%s: infinite logits have PyTorch's loss and gradient", (dtype) => {
    const [T, V] = [5, 150];
    const weight = Weight.dense(
      device,
      upload(
        device,
        dtype,
        [V, 1],
        Float32Array.from({ length: V }, (_, j) => (j === 140 ? 2 : 0)),
      ),
    );
    // Twice that is infinite.
    const x = upload(device, dtype, [T, 1], Float32Array.of(3e38, -3e38, 3e38, -3e38, 1));
    const losses = poisoned(device, "f32", [T]);
    const dx = poisoned(device, dtype, [T, 1]);
    const workspace = poisoned(device, "f32", [crossEntropyWorkspace(device, dtype, T, 1, V, false) / 4]);
    const targets = Int32Array.of(140, 140, 3, 3, 140);
    linearCrossEntropy(device, losses, x, weight, Int32Array.of(0, 1, 2, 3, 4), targets, workspace, {
      ...{ dx, dweight: null, scale },
    });
    const [high, low, highBeside, lowBeside, one] = device.readFloats(losses);
    expect([high, low, highBeside]).toEqual([NaN, Infinity, NaN]);
    expect(lowBeside).toBeCloseTo(Math.log(V - 1), 4);
    expect(one).toBeCloseTo(Math.log(V - 1 + Math.exp(2)) - 2, 4);
    const gradients = [...device.readFloats(dx)];
    expect([gradients[0], gradients[2], gradients[3]]).toEqual([NaN, NaN, 0]);
    expect(gradients[1]).toBeCloseTo(-2 * scale, 2);
    weight.destroy();
  });
});
