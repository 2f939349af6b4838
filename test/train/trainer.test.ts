// The training loop on a model of a few numbers: files, resuming, interruptions, skipped steps.

import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { evaluationText } from "../../src/cli/run-lines.ts";
import { makeBatch } from "../../src/data/batch.ts";
import { InterruptedError, UsageError } from "../../src/errors.ts";
import { openAdapter, readAdapterConfig } from "../../src/formats/peft.ts";
import { readSafetensorsHeader, readTensorData, writeSafetensors } from "../../src/formats/safetensors.ts";
import { adapterLoraOptions, loadAdapter } from "../../src/model/index.ts";
import { NoisyTrainer, Trainer, type TrainerSettings } from "../../src/train/index.ts";
import { inMemory, scratchFolder } from "../scratch.ts";
import { FakeModel, fakeSamples } from "./fake-model.ts";

const root = scratchFolder(inMemory);
let folders = 0;
const newFolder = () => join(root, `run-${folders++}`);

const dataset = fakeSamples(21);
const evalDataset = fakeSamples(6);
const base = { batchSize: 2, gradientAccumulationSteps: 2, learningRate: 0.05, epochs: 3, saveSteps: 4 };

/** A trainer with a fresh model. 21 samples, 4 in a step: 6 steps an epoch, 18 in all. */
function noisy(settings: Partial<TrainerSettings> & { output: string }, model = new FakeModel()) {
  const trainer = new NoisyTrainer({
    dataset,
    model,
    ...settings,
    options: { ...base, ...settings.options },
  });
  return { model, trainer };
}

type Line = Record<string, number | null | string>;
const timing = ["seconds", "tokens_per_second", "peak_memory_bytes"];

function metricsOf(output: string): Line[] {
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trimEnd().split("\n");
  return lines.map((line) => {
    const fields = Object.entries(JSON.parse(line) as Line);
    return Object.fromEntries(fields.filter(([name]) => !timing.includes(name)));
  });
}

const adapterBytes = (output: string) => readFileSync(join(output, "adapter_model.safetensors"));
const checkpoints = (output: string) => readdirSync(join(output, "checkpoints")).sort();

/** What a run that never stopped leaves. */
const straight = newFolder();
await noisy({ output: straight, evalDataset }).trainer.train();

function expectSameRun(output: string, reference = straight): void {
  expect(metricsOf(output)).toEqual(metricsOf(reference));
  expect(adapterBytes(output).equals(adapterBytes(reference))).toBe(true);
}

describe("a run", () => {
  test("leaves the files of its contract", () => {
    expect(readdirSync(straight).sort()).toEqual([
      "adapter_config.json",
      "adapter_model.safetensors",
      "checkpoints",
      "config.json",
      "metrics.jsonl",
    ]);
    expect(checkpoints(straight)).toEqual(["step-00000012", "step-00000016", "step-00000018"]);
    expect(readdirSync(join(straight, "checkpoints", "step-00000012")).sort()).toEqual([
      "adapter_config.json",
      "adapter_model.safetensors",
      "optimizer.safetensors",
      "progress.json",
    ]);
    const config = JSON.parse(readFileSync(join(straight, "config.json"), "utf8"));
    expect(config).toMatchObject({ alpha: 5, "batch-size": 2, "warmup-ratio": 0.03, output: straight });
    expect(config).toMatchObject({ device: { backend: "fake" }, dataset_fingerprint: { samples: 21 } });
    expect(readAdapterConfig(straight)).toMatchObject({ r: 3, loraAlpha: 6, targetModules: ["q_proj"] });
  });

  test("metrics have a line a step and one an evaluation at the end of every epoch", () => {
    const lines = readFileSync(join(straight, "metrics.jsonl"), "utf8").trimEnd().split("\n");
    const parsed = lines.map((line) => JSON.parse(line) as Line);
    const steps = parsed.filter((line) => "loss" in line);
    expect(steps.map(({ step }) => step)).toEqual(Array.from({ length: 18 }, (_, i) => i + 1));
    expect(Object.keys(steps[0]!)).toEqual([
      ...["step", "epoch", "loss", "grad_norm", "learning_rate", "samples", "tokens", "target_tokens"],
      ...timing,
    ]);
    expect(steps.slice(0, 6).map(({ samples }) => samples)).toEqual([4, 4, 4, 4, 4, 1]);
    expect(steps[0]!.learning_rate).toBe(0);
    const evaluations = parsed.filter((line) => "eval_loss" in line);
    expect(evaluations.map(({ step, epoch }) => [step, epoch])).toEqual([
      [6, 1],
      [12, 2],
      [18, 3],
    ]);
    expect(Object.keys(evaluations[0]!)).toEqual([
      "step",
      "epoch",
      "eval_loss",
      "eval_perplexity",
      "eval_tokens",
    ]);
    expect(evaluations[2]!.eval_loss as number).toBeLessThan(evaluations[0]!.eval_loss as number);
    // The evaluation stands right after its step's line.
    expect(parsed.findIndex((line) => "eval_loss" in line)).toBe(6);
  });

  test("logging-steps thins the lines, the counts stay those of one step", async () => {
    const output = newFolder();
    await noisy({ output, options: { loggingSteps: 5 } }).trainer.train();
    const all = metricsOf(straight).filter((line) => "loss" in line);
    expect(metricsOf(output)).toEqual(all.filter(({ step }) => [5, 10, 15, 18].includes(step as number)));
  });

  test("eval-steps sets when; without something to evaluate on it is refused", async () => {
    const output = newFolder();
    await noisy({ output, evalDataset, options: { evalSteps: 7 } }).trainer.train();
    const evaluations = metricsOf(output).filter((line) => "eval_loss" in line);
    expect(evaluations.map(({ step }) => step)).toEqual([7, 14, 18]);
    expect(() => noisy({ output: newFolder(), options: { evalSteps: 7 } })).toThrow("--eval-dataset");
  });

  test("every micro-batch split and layout of a step gives the same losses within rounding", async () => {
    const losses = async (options: TrainerSettings["options"] & object) => {
      const output = newFolder();
      await noisy({ output, options: { maxSteps: 8, ...options } }).trainer.train();
      return metricsOf(output).map(({ loss }) => loss as number);
    };
    const wanted = await losses({});
    for (const options of [
      { batchSize: 4, gradientAccumulationSteps: 1 },
      { batchSize: 1, gradientAccumulationSteps: 4 },
      { packing: false },
    ]) {
      const got = await losses(options);
      got.forEach((loss, i) => {
        expect(Math.abs(loss - wanted[i]!) / wanted[i]!).toBeLessThan(1e-5);
      });
    }
  });

  test("draws count every sample fed to training, over epochs", async () => {
    const { model, trainer } = noisy({ output: newFolder(), options: { maxSteps: 8 } });
    await trainer.train();
    expect(model.draws).toEqual(Array.from({ length: 29 }, (_, i) => i));
  });

  test("tune full: config and model beside run.json, in the base's dtype", async () => {
    const output = newFolder();
    const { model, trainer } = noisy({ output, options: { maxSteps: 5 } }, new FakeModel("full"));
    await trainer.train();
    expect(readdirSync(output).sort()).toEqual([
      ...["checkpoints", "config.json", "metrics.jsonl", "model.safetensors", "run.json"],
    ]);
    const header = readSafetensorsHeader(join(output, "model.safetensors"));
    const name = model.parameters.tensors[0]!.name;
    expect(header.tensors.get(name)).toMatchObject({ dtype: "BF16", shape: [3, 11] });
    expect(readTensorData(header, name).length).toBe(66);
    const config = JSON.parse(readFileSync(join(output, "config.json"), "utf8"));
    expect(config).toMatchObject({ model_type: "llama", torch_dtype: "bfloat16" });
    const state = readSafetensorsHeader(join(output, "checkpoints", "step-00000005", "model.safetensors"));
    expect(state.tensors.get(name)).toMatchObject({ dtype: "F32" });
  });

  test("tune full with a base: its tokenizer and config go along, with the dtype that is written", async () => {
    const [dir, output] = [newFolder(), newFolder()];
    mkdirSync(dir);
    const files = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"];
    for (const file of files) writeFileSync(join(dir, file), `{"of": "${file}"}`);
    writeFileSync(join(dir, "README.md"), "about the base");
    const tensor = { name: "w", dtype: "F32", shape: [1], data: new Uint8Array(4) } as const;
    writeSafetensors(join(dir, "model.safetensors"), [tensor]);
    const origin = { dir, name: "some/base" };
    await noisy({ output, origin, options: { maxSteps: 1 } }, new FakeModel("full")).trainer.train();
    for (const file of files)
      expect(JSON.parse(readFileSync(join(output, file), "utf8"))).toEqual({
        of: file,
        ...(file === "config.json" ? { torch_dtype: "bfloat16" } : {}),
      });
    expect(existsSync(join(output, "README.md"))).toBe(false);

    // The base is told apart by its bytes, not by its folder's name.
    tensor.data[0] = 1;
    writeSafetensors(join(dir, "model.safetensors"), [tensor]);
    const again = noisy({ output, origin, resume: true, options: { maxSteps: 1 } }, new FakeModel("full"));
    await expect(again.trainer.train()).rejects.toThrow("the model (--model) was");
  });

  test("a trained adapter is another run's start", async () => {
    const adapter = openAdapter(straight);
    const model = new FakeModel();
    expect(adapterLoraOptions(straight, adapter.config, model.config)).toEqual(model.options.lora!);
    loadAdapter(model.parameters, adapter);
    const [first] = model.parameters.tensors;
    const bytes = readTensorData(adapter.weights, `base_model.model.${first!.name}`);
    expect(Buffer.from(model.parameters.read(first!.name).buffer).equals(bytes)).toBe(true);
  });
});

describe("noise", () => {
  test("NoisyTrainer's hook is there while it trains and gone after, also after an error", async () => {
    const { model, trainer } = noisy({ output: newFolder(), options: { maxSteps: 2 } });
    await trainer.train();
    expect([...model.noiseKinds]).toEqual(["uniform"]);
    const batch = makeBatch(fakeSamples(1), { packing: true });
    expect(model.embedTokens.noise(batch, 3, BigInt64Array.of(0n))).toBeNull();

    const broken = noisy({ output: newFolder() });
    broken.model.trainBatch = () => {
      throw new Error("on purpose");
    };
    await expect(broken.trainer.train()).rejects.toThrow("on purpose");
    expect(broken.model.embedTokens.noise(batch, 3, BigInt64Array.of(0n))).toBeNull();
  });

  test("alpha 0, noise none and the plain Trainer are one and the same run", async () => {
    const outputs = [newFolder(), newFolder(), newFolder()] as const;
    await noisy({ output: outputs[0], options: { alpha: 0 } }).trainer.train();
    await noisy({ output: outputs[1], options: { neftNoise: "none" } }).trainer.train();
    const model = new FakeModel();
    await new Trainer({ model, dataset, output: outputs[2], options: base }).train();
    expect([...model.noiseKinds]).toEqual(["none"]);
    expectSameRun(outputs[1], outputs[0]);
    expectSameRun(outputs[2], outputs[0]);
    expect(adapterBytes(outputs[0]).equals(adapterBytes(straight))).toBe(false);
  });
});

/** Stops a run after `step` steps as Ctrl-C does. */
async function interruptAfter(step: number, output: string): Promise<void> {
  const stop = new AbortController();
  const reporter = { onStep: (metrics: { step: number }) => metrics.step === step && stop.abort() };
  const { trainer } = noisy({ output, evalDataset, reporter, signal: stop.signal });
  await expect(trainer.train()).rejects.toThrow(InterruptedError);
}

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
    const settings = { output, evalDataset, options: { maxSteps: 2, evalSteps: 1 } };
    const broken = () => {
      const model = new FakeModel();
      model.evaluate = (batch) => new Float32Array(batch.targets.length).fill(Number.NaN);
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
    expect(readdirSync(output)).toHaveLength(5);
    expect(checkpoints(output).every((name) => name.startsWith("step-"))).toBe(true);
  });

  test("a foreign line in metrics.jsonl is refused with its number", async () => {
    const output = newFolder();
    await interruptAfter(2, output);
    const metrics = join(output, "metrics.jsonl");
    writeFileSync(metrics, `my notes\n${readFileSync(metrics, "utf8")}`);
    await expect(noisy({ output, evalDataset, resume: true }).trainer.train()).rejects.toThrow("line 1");
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

describe("the output folder", () => {
  test("another run's, or a model's, is refused and left alone", async () => {
    const output = newFolder();
    await interruptAfter(1, output);
    const before = readFileSync(join(output, "metrics.jsonl"), "utf8");
    const error = await noisy({ output, evalDataset })
      .trainer.train()
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UsageError);
    expect((error as Error).message).toContain("holds another run; give another folder, or --resume");
    expect(readFileSync(join(output, "metrics.jsonl"), "utf8")).toBe(before);

    const model = newFolder();
    mkdirSync(model);
    writeFileSync(join(model, "config.json"), "{}");
    writeFileSync(join(model, "model.safetensors"), "");
    for (const resume of [false, true]) {
      await expect(noisy({ output: model, resume }).trainer.train()).rejects.toThrow(
        "files of another kind of run",
      );
    }
    expect(readdirSync(model)).toHaveLength(2);
    // A run of the other kind keeps its options elsewhere.
    const full = noisy({ output, resume: true }, new FakeModel("full"));
    await expect(full.trainer.train()).rejects.toThrow("files of another kind of run");
  });

  test("a folder with other files is fine; a file in its place is not", async () => {
    const output = newFolder();
    mkdirSync(output);
    writeFileSync(join(output, "log.txt"), "mine");
    await noisy({ output, options: { maxSteps: 1 } }).trainer.train();
    expect(readFileSync(join(output, "log.txt"), "utf8")).toBe("mine");
    await expect(noisy({ output: join(output, "log.txt") }).trainer.train()).rejects.toThrow("log.txt");
  });

  test("save-total-limit keeps the newest", async () => {
    const output = newFolder();
    await noisy({ output, options: { saveSteps: 1, saveTotalLimit: 2 } }).trainer.train();
    expect(checkpoints(output)).toEqual(["step-00000017", "step-00000018"]);
  });
});

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
    const norm = model.parameters.gradientNorm.bind(model.parameters);
    let calls = 0;
    model.parameters.gradientNorm = (maxNorm) => (calls++ === 1 ? Number.POSITIVE_INFINITY : norm(maxNorm));
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
