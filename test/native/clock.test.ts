// The simulated clock: the step that the trainer asks of an H100, recorded on the emulator with nothing run, against
// formulas of the model.

import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { cardEnvironment, cards, clockWork } from "../../build/cards.ts";
import { readKept, withTables } from "../../build/check-clock.ts";
import {
  boundSeconds,
  causalWaste,
  clockStep,
  estimatedSeconds,
  slowerSteps,
  waveFactor,
} from "../../build/clock.ts";
import type { RecordedStep, StepKernel } from "../../build/recorded-step.ts";
import { linearModules, linearShape } from "../../src/model/index.ts";
import { readShape } from "../../src/presets/shapes.ts";

const root = join(import.meta.dir, "../..");
const library = join(root, "dist/native/libneftune-emulated.so");
const h100 = cards[0]!;

test("whole tiles of causal attention: much in short rows, little in long ones", () => {
  // Rows 0–127 compute keys 0–127, the next 128 rows keys 0–255, and so on.
  expect(causalWaste(512)).toBeCloseTo((128 * (128 + 256 + 384 + 512)) / ((512 * 513) / 2), 12);
  expect(causalWaste(4096)).toBeLessThan(1.04);
});

test("the last wave of a product's tiles", () => {
  expect(waveFactor(128 * 132, 256, 132)).toBe(1);
  expect(waveFactor(8192, 28672, 132)).toBeLessThan(1.02);
  // 64 tiles of 128 × 256 leave half of 132 multiprocessors without work; 128 smaller ones do not.
  expect(waveFactor(1024, 2048, 132)).toBeCloseTo(132 / 64 / 2 / 0.85 / 1.03, 12);
});

const kernel = (given: Partial<StepKernel>): StepKernel => ({
  ...{ operation: "rope", kernel: "rope", launches: 1, blocks: 1000, bytes: 3e9, flops: 0, product: null },
  ...given,
});

test("bounds and estimates of single kernels", () => {
  expect(boundSeconds(kernel({}), h100)).toBeCloseTo(1e-3, 12);
  expect(estimatedSeconds(kernel({}), h100, 512)).toBeCloseTo(1e-3 / 0.88 + 1e-6, 12);
  // Half as many blocks as multiprocessors read at half the rate.
  expect(estimatedSeconds(kernel({ blocks: 66 }), h100, 512)).toBeCloseTo(2e-3 / 0.88 + 1e-6, 12);
  expect(boundSeconds(kernel({ kernel: "copy to the host" }), h100)).toBe(0);
  const product = { m: 128 * 132, n: 256, added: 2.64e9 };
  const matmul = kernel({ kernel: "matmul", bytes: 1, flops: 690e9, product });
  expect(boundSeconds(matmul, h100)).toBeCloseTo(1e-3, 12);
  expect(estimatedSeconds(matmul, h100, 512)).toBeCloseTo(2e-3 + 1e-6, 12);
});

test("kernels without tensor cores are not timed at their rate", () => {
  for (const name of ["attention_forward_plain", "product_plain 128x64x64, added"])
    expect(() => estimatedSeconds(kernel({ kernel: name }), h100, 512)).toThrow(`${name}: no rate`);
});

test("the docs' tables are those of the record", () => {
  const page = readFileSync(join(root, "docs/performance.md"), "utf8");
  expect(page).toContain("| llama2-7b, LoRA, 8 × 512 |");
  expect(withTables(page, readKept())).toBe(page);
});

test("what became slower is told, and what did not is not", () => {
  const step = (ms: number, launches: number) => ({ work: { H100: { ms, launches }, Spark: null } });
  expect(slowerSteps(step(10, 5), step(10, 5))).toEqual([]);
  expect(slowerSteps(step(9, 4), step(10, 5))).toEqual([]);
  expect(slowerSteps(step(10.2, 5), step(10, 5))[0]).toContain("work on H100: 10.2 ms");
  expect(slowerSteps(step(10, 6), step(10, 5))).toHaveLength(1);
  expect(slowerSteps(step(10, 6), {})).toEqual([]);
});

test.skipIf(!existsSync(library))(
  "a recorded step: the products are the model's, and every kernel has its bytes",
  async () => {
    const child = Bun.spawn([process.execPath, join(root, "build/recorded-step.ts")], {
      env: { ...process.env, ...cardEnvironment(h100), NEFTUNE_CUDA_LIBRARY: library },
      stdout: "pipe",
    });
    const steps = JSON.parse(await new Response(child.stdout).text()) as RecordedStep[];
    expect(await child.exited).toBe(0);
    expect(steps.map(({ problem }) => problem)).toEqual(clockWork.map(() => null));
    for (const step of steps) {
      const { shape, mode, batch, length, kernels } = step;
      const config = readShape(shape);
      const layer = linearModules.reduce((sum, module) => {
        const [out, inputs] = linearShape(config, module);
        return sum + out * inputs;
      }, 0);
      const firstInput = linearModules
        .filter((module) => /^[qkv]_/.test(module))
        .reduce((sum, module) => sum + linearShape(config, module)[0], 0);
      const [tokens, targets, H] = [batch * length, batch * (length - 1), config.hiddenSize];
      const flops = kernels
        .filter(({ product }) => product !== null)
        .reduce((sum, kernel) => sum + kernel.flops, 0);
      // Forward and dx of all linears but the first layer's dx of q, k and v, and of the head for each target.
      const expected =
        4 * tokens * config.numHiddenLayers * layer -
        2 * tokens * firstInput * H +
        4 * targets * config.vocabSize * H;
      // Folded into the weights, LoRA's products add their columns to it, at most 64 a group.
      expect(flops / expected).toBeGreaterThanOrEqual(1);
      expect(flops / expected).toBeLessThan(shape === "s135m" ? 1.12 : 1.03);
      const clock = clockStep(step, h100);
      expect(clock.bound).toBeLessThan(clock.device);
      expect(clock.launches).toBe(kernels.reduce((sum, { launches }) => sum + launches, 0));
      expect(mode === "qlora").toBe(kernels.some(({ kernel }) => kernel === "dequantize"));
    }
  },
  30_000,
);
