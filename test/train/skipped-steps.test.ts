// Steps that bring no update: skipped, counted, shown, and remembered.

import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { InterruptedError } from "../../src/errors.ts";
import { inMemory, scratchFolders } from "../scratch.ts";
import { FakeModel, fakeSamples } from "./fake-model.ts";
import { expectSameRun, metricsOf, noisy } from "./runs.ts";

const newFolder = scratchFolders(inMemory);

describe("steps that bring no update", () => {
  test("a loss that is not finite is skipped, counted and shown; the schedule goes on, AdamW's count does not", async () => {
    const output = newFolder();
    const seen: unknown[] = [];
    const reporter = { onSkip: (...args: unknown[]) => seen.push(args) };
    const { model, trainer } = noisy({ output, reporter, options: { maxSteps: 6 } });
    model.faults.set(2, Number.NaN).set(7, Number.POSITIVE_INFINITY); // in steps 2 and 4
    expect(await trainer.train()).toMatchObject({ steps: 6, skipped: 2 });
    expect(seen).toEqual([
      [2, "the loss is NaN", 1],
      [4, "the loss is Infinity", 2],
    ]);
    expect(model.parameters.updates.map(({ step }) => step)).toEqual([1, 2, 3, 4]);
    expect([...model.parameters.values].every(Number.isFinite)).toBe(true);
    const lines = metricsOf(output);
    expect(lines[1]).toMatchObject({ step: 2, loss: null, grad_norm: null, skipped: "the loss is NaN" });
    expect(lines[2]).not.toHaveProperty("skipped");
    // Warm-up is 1 step of 6; then half a cosine over 5.
    lines.forEach(({ learning_rate }, i) => {
      const wanted = i === 0 ? 0 : 0.025 * (1 + Math.cos((Math.PI * (i - 1)) / 5));
      expect(Math.fround(learning_rate as number)).toBe(Math.fround(wanted));
    });
  });

  test("a gradient norm that is not finite is skipped", async () => {
    const output = newFolder();
    const { model, trainer } = noisy({ output, options: { maxSteps: 3 } });
    const norm = model.parameters.startGradientNorm.bind(model.parameters);
    let calls = 0;
    model.parameters.startGradientNorm = (maxNorm) =>
      calls++ === 1 ? () => Number.POSITIVE_INFINITY : norm(maxNorm);
    expect(await trainer.train()).toMatchObject({ skipped: 1 });
    const line = metricsOf(output)[1]!;
    expect(line).toMatchObject({ grad_norm: null, skipped: "the gradient norm is Infinity" });
    expect(line.loss).toBeGreaterThan(0);
  });

  test("a step without target tokens is skipped; a micro-batch without any is no obstacle", async () => {
    const none = (n: number) => ({
      ids: Int32Array.of(1, 2, n),
      labels: new Int32Array(3).fill(-100),
      truncated: false,
    });
    const samples = [...[1, 2, 3, 4].map(none), none(5), none(6), ...fakeSamples(2)];
    const output = newFolder();
    const { trainer } = noisy({ output, dataset: samples, options: { shuffle: "none", epochs: 1 } });
    expect(await trainer.train()).toMatchObject({ steps: 2, skipped: 1 });
    const [first, second] = metricsOf(output);
    expect(first).toMatchObject({ loss: null, tokens: 12, target_tokens: 0, skipped: "no target tokens" });
    expect(second!.loss).toBeGreaterThan(0);
  });

  test("data with no target at all is refused before anything is written", async () => {
    const none = [{ ids: Int32Array.of(1, 2), labels: Int32Array.of(1, -100), truncated: false }];
    const output = newFolder();
    await expect(noisy({ output, dataset: none }).trainer.train()).rejects.toThrow("1 samples to train on");
    await expect(noisy({ output, evalDataset: none }).trainer.train()).rejects.toThrow(
      "1 samples to evaluate",
    );
    expect(existsSync(output)).toBe(false);
  });

  test("skipped steps survive a resume", async () => {
    const whole = newFolder();
    const faulty = () => {
      const model = new FakeModel();
      model.faults.set(2, Number.NaN);
      return model;
    };
    await noisy({ output: whole, options: { maxSteps: 6 } }, faulty()).trainer.train();
    const output = newFolder();
    const stop = new AbortController();
    const reporter = { onSkip: () => stop.abort() };
    const first = noisy({ output, reporter, signal: stop.signal, options: { maxSteps: 6 } }, faulty());
    await expect(first.trainer.train()).rejects.toThrow(InterruptedError);
    const second = noisy({ output, resume: true, options: { maxSteps: 6 } });
    expect(await second.trainer.train()).toMatchObject({ steps: 6, skipped: 1 });
    expectSameRun(output, whole);
  });
});
