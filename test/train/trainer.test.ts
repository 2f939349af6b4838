// The training loop on a model of a few numbers: the files of a run, its folder, its noise.

import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeBatch } from "../../src/data/batch.ts";
import { UsageError } from "../../src/errors.ts";
import { openAdapter, readAdapterConfig } from "../../src/formats/peft.ts";
import { readSafetensorsHeader, readTensorData, writeSafetensors } from "../../src/formats/safetensors.ts";
import { adapterLoraOptions, loadAdapter } from "../../src/model/index.ts";
import { neftune, Trainer, type TrainerSettings } from "../../src/train/index.ts";
import { FakeModel, fakeSamples } from "./fake-model.ts";
import {
  adapterBytes,
  base,
  checkpoints,
  dataset,
  evalDataset,
  expectSameRun,
  interruptAfter,
  type Line,
  metricsOf,
  noisy,
  runFolders,
  timing,
} from "./runs.ts";

const { newFolder, straight } = await runFolders();

describe("a run", () => {
  test("leaves the files of its contract", () => {
    expect(readdirSync(straight).sort()).toEqual([
      "adapter_config.json",
      "adapter_model.safetensors",
      "checkpoints",
      "config.json",
      "eval_losses.json",
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

test("the next step's samples are read before this step's losses", async () => {
  const events: string[] = [];
  const samples = fakeSamples(4);
  const recording = {
    length: samples.length,
    get: (i: number) => {
      events.push(`sample ${i}`);
      return samples[i]!;
    },
  };
  const model = new FakeModel();
  const startBatch = model.startBatch.bind(model);
  model.startBatch = (...args) => {
    const read = startBatch(...args);
    events.push("start");
    return () => {
      events.push("losses");
      return read();
    };
  };
  const options = {
    ...base,
    batchSize: 1,
    gradientAccumulationSteps: 2,
    epochs: 1,
    shuffle: "none" as const,
  };
  const trainer = new Trainer({ model, dataset: recording, output: newFolder(), options });
  events.length = 0;
  await trainer.train();
  const steps = events.slice(events.indexOf("start") - 2);
  expect(steps).toEqual([
    ...["sample 0", "sample 1", "start", "start", "sample 2", "sample 3", "losses", "losses"],
    ...["start", "start", "losses", "losses"],
  ]);
});

describe("noise", () => {
  test("NoisyTrainer's hook is there while it trains and gone after, also after an error", async () => {
    const { model, trainer } = noisy({ output: newFolder(), options: { maxSteps: 2 } });
    await trainer.train();
    expect([...model.noiseKinds]).toEqual(["uniform"]);
    const batch = makeBatch(fakeSamples(1), { packing: true });
    expect(model.embedTokens.noise(batch, 3, BigInt64Array.of(0n))).toBeNull();

    const broken = noisy({ output: newFolder() });
    broken.model.startBatch = () => {
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

  test("a Trainer takes any hook; with NEFTune's it is a NoisyTrainer", async () => {
    const [output, own] = [newFolder(), newFolder()];
    const options = { ...base, alpha: 5 };
    const embeddingHook = neftune({ alpha: 5 });
    const composed = new Trainer({
      model: new FakeModel(),
      dataset,
      evalDataset,
      output,
      options,
      embeddingHook,
    });
    await composed.train();
    expectSameRun(output, straight);

    const model = new FakeModel();
    const scales = Float32Array.of(1, 1);
    const hook = ({ lengths, draws }: { lengths: Int32Array; draws: BigInt64Array }) =>
      lengths.length === 2 ? { kind: "gaussian" as const, seed: 1, scales, draws } : null;
    await new Trainer({ model, dataset, output: own, options, embeddingHook: hook }).train();
    // The last step of an epoch has one sample.
    expect([...model.noiseKinds]).toEqual(["gaussian", "none"]);
    const batch = makeBatch(fakeSamples(2), { packing: true });
    expect(model.embedTokens.noise(batch, 3, BigInt64Array.of(0n, 1n))).toBeNull();
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
