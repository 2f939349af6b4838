// A run that is stopped and goes on leaves the same bits as one that never stopped.

import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { evaluationText } from "../../src/cli/run/lines.ts";
import { UsageError } from "../../src/errors.ts";
import type { TrainerSettings } from "../../src/train/index.ts";
import { FakeModel, fakeSamples } from "./fake-model.ts";
import * as runs from "./runs.ts";

const { checkpoints, evalDataset, interruptAfter, metricsOf, noisy } = runs;
const { newFolder, straight } = await runs.runFolders();
const expectSameRun = (output: string, reference = straight) => runs.expectSameRun(output, reference);

describe("stopping and resuming", () => {
  test.each([1, 4, 5, 6, 17])(
    "interrupted after step %d: saved, and resumed to the same bits",
    async (step) => {
      const output = newFolder();
      await interruptAfter(step, output);
      expect(checkpoints(output).at(-1)).toBe(`step-${String(step).padStart(8, "0")}`);
      expect(existsSync(join(output, "adapter_model.safetensors"))).toBe(false);
      const { model, trainer } = noisy({ output, evalDataset, resume: true });
      const result = await trainer.train();
      expect(result).toMatchObject({ steps: 18, skipped: 0 });
      expect(model.parameters.updates[0]!.step).toBe(step + 1);
      expectSameRun(output);
    },
  );

  test("interrupted in the evaluation after the last step, or from the start: nothing is lost", async () => {
    const output = newFolder();
    await interruptAfter(18, output);
    expect(metricsOf(output).at(-1)).not.toHaveProperty("eval_loss");
    await noisy({ output, evalDataset, resume: true }).trainer.train();
    expectSameRun(output);

    const early = newFolder();
    const { trainer } = noisy({ output: early, evalDataset, signal: AbortSignal.abort() });
    await expect(trainer.train()).rejects.toThrow("after step 1 of 18");
    await noisy({ output: early, evalDataset, resume: true }).trainer.train();
    expectSameRun(early);
  });

  test("full training resumes to the same bits too", async () => {
    const options = { saveSteps: 5 };
    const whole = newFolder();
    await noisy({ output: whole, options }, new FakeModel("full")).trainer.train();
    const output = newFolder();
    const reporter = {
      onStep: ({ step }: { step: number }) => {
        if (step === 12) throw new Error("stopped");
      },
    };
    const killed = noisy({ output, options, reporter }, new FakeModel("full"));
    await expect(killed.trainer.train()).rejects.toThrow("stopped");
    await noisy({ output, options, resume: true }, new FakeModel("full")).trainer.train();
    expect(metricsOf(output)).toEqual(metricsOf(whole));
    const model = (folder: string) => readFileSync(join(folder, "model.safetensors"));
    expect(model(output).equals(model(whole))).toBe(true);
  });

  test("an evaluation without a finite loss is kept as none, also over a resume", async () => {
    const output = newFolder();
    // Of a result from the step before it; otherwise the run has diverged (divergence.test.ts).
    const options = { maxSteps: 2, evalSteps: 1, loadBestModelAtEnd: true };
    const settings = { output, evalDataset: evalDataset.slice(0, 2), options };
    const broken = () => {
      const model = new FakeModel();
      const losses = [2, Number.NaN];
      model.evaluate = (batch) => new Float32Array(batch.targets.length).fill(losses.shift()!);
      return model;
    };
    const none = { step: 2, loss: null, perplexity: null };
    const first = await noisy(settings, broken()).trainer.train();
    expect(first.evaluation).toMatchObject(none);
    expect(metricsOf(output).at(-1)).toMatchObject({ eval_loss: null, eval_perplexity: null });
    const again = await noisy({ ...settings, resume: true }, broken()).trainer.train();
    expect(again.evaluation).toEqual(first.evaluation);
    expect(evaluationText(again.evaluation!)).toBe("loss not finite, perplexity not finite");
  });

  test("a finished run resumes to itself", async () => {
    const output = newFolder();
    await noisy({ output, evalDataset }).trainer.train();
    const { model, trainer } = noisy({ output, evalDataset, resume: true });
    expect(await trainer.train()).toMatchObject({ steps: 18, tokens: 0 });
    expect(model.calls).toBe(0);
    expectSameRun(output);
  });

  test("without a checkpoint, resume starts anew: an empty folder, and metrics of steps that are lost", async () => {
    const output = newFolder();
    await noisy({ output, evalDataset, options: { maxSteps: 3, saveSteps: 50 } }).trainer.train();
    rmSync(join(output, "checkpoints"), { recursive: true });
    await noisy({ output, evalDataset, resume: true }).trainer.train();
    expectSameRun(output);
  });

  test("leftovers and a torn line of a killed run are cleaned away", async () => {
    const output = newFolder();
    await interruptAfter(5, output);
    const metrics = join(output, "metrics.jsonl");
    const text = readFileSync(metrics, "utf8");
    writeFileSync(metrics, `${text}{"step":6,"epoch":1,"loss":9}\n{"step":6,"eval_loss":1}\n{"step":7,"ep`);
    for (const name of [".step-00000006.partial", ".step-00000003.removed"]) {
      mkdirSync(join(output, "checkpoints", name));
      writeFileSync(join(output, "checkpoints", name, "progress.json"), "{");
    }
    writeFileSync(join(output, ".adapter_model.safetensors.4711.partial"), "half");
    writeFileSync(join(output, ".neftune.lock.4711.new"), "half");
    await noisy({ output, evalDataset, resume: true }).trainer.train();
    expectSameRun(output);
    expect(readdirSync(output)).toHaveLength(6);
    expect(checkpoints(output).every((name) => name.startsWith("step-"))).toBe(true);
  });

  test("a foreign line in metrics.jsonl is refused with its number", async () => {
    const output = newFolder();
    await interruptAfter(2, output);
    const metrics = join(output, "metrics.jsonl");
    writeFileSync(metrics, `my notes\n${readFileSync(metrics, "utf8")}`);
    await expect(noisy({ output, evalDataset, resume: true }).trainer.train()).rejects.toThrow("line 1");
  });

  test("Infinity and NaN in metrics.jsonl, as other writers leave them, become null", async () => {
    const output = newFolder();
    await interruptAfter(2, output);
    const metrics = join(output, "metrics.jsonl");
    const text = readFileSync(metrics, "utf8");
    writeFileSync(metrics, text.replace(/"grad_norm":[^,]+/, '"grad_norm":Infinity'));
    await noisy({ output, evalDataset, resume: true }).trainer.train();
    const [first, ...others] = metricsOf(output);
    expect(first).toMatchObject({ step: 1, grad_norm: null });
    expect(others.map(({ step }) => step)).toContain(12);
    for (const line of others) expect(line).not.toMatchObject({ grad_norm: null });
  });

  test("another split of the same step may go on; the losses agree within rounding", async () => {
    const output = newFolder();
    await interruptAfter(7, output);
    const options = {
      batchSize: 4,
      gradientAccumulationSteps: 1,
      packing: false,
      saveSteps: 3,
      loggingSteps: 1,
    };
    await noisy({ output, evalDataset, resume: true, options }).trainer.train();
    const [got, wanted] = [metricsOf(output), metricsOf(straight)];
    expect(got.map(({ step, samples }) => [step, samples])).toEqual(
      wanted.map(({ step, samples }) => [step, samples]),
    );
    got.forEach((line, i) => {
      const [a, b] = [line, wanted[i]!].map(({ loss, eval_loss }) => (loss ?? eval_loss) as number);
      expect(Math.abs(a! - b!) / b!).toBeLessThan(1e-5);
    });
  });

  const changes: [name: string, change: Partial<TrainerSettings>, message: string][] = [
    ["alpha", { options: { alpha: 10 } }, "--alpha was 5, is now 10"],
    ["rate", { options: { learningRate: 1 } }, "--learning-rate was 0.05, is now 1"],
    ["seed", { options: { seed: 1 } }, "--seed was 42, is now 1"],
    ["samples in a step", { options: { batchSize: 4 } }, "--gradient-accumulation-steps was 4, is now 8"],
    ["epochs", { options: { epochs: 4 } }, "steps in all (--epochs, --max-steps) was 18, is now 24"],
    ["fewer samples", { dataset: fakeSamples(20) }, "the data set's samples was 21, is now 20"],
    [
      "other samples",
      { dataset: fakeSamples(22).slice(1) },
      "the data set (--dataset and how it is read) was",
    ],
    ["evaluation data", { evalDataset: fakeSamples(5) }, "the evaluation data set was"],
  ];
  test.each(changes)("what changes the numbers is refused by name: %s", async (_name, change, message) => {
    const output = newFolder();
    await interruptAfter(2, output);
    const { trainer } = noisy({ output, evalDataset, resume: true, ...change });
    const error = await trainer.train().catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UsageError);
    expect((error as Error).message).toContain(message);
  });

  test("other starting values are refused", async () => {
    const output = newFolder();
    await interruptAfter(2, output);
    const { model, trainer } = noisy({ output, evalDataset, resume: true });
    model.parameters.values[3] = 1;
    await expect(trainer.train()).rejects.toThrow("--adapter");
  });

  test("a constant rate may go on for longer, not for less", async () => {
    const output = newFolder();
    const options = { lrSchedulerType: "constant", maxSteps: 5 } as const;
    await noisy({ output, options }).trainer.train();
    const shorter = noisy({ output, resume: true, options: { ...options, maxSteps: 4 } });
    await expect(shorter.trainer.train()).rejects.toThrow("beyond the 4 steps");
    await noisy({ output, resume: true, options: { ...options, maxSteps: 9 } }).trainer.train();
    const whole = newFolder();
    await noisy({ output: whole, options: { ...options, maxSteps: 9 } }).trainer.train();
    expectSameRun(output, whole);
  });
});
