// Whole runs of a Llama against PyTorch + Transformers + PEFT: what the trainer writes, not only what it computes. And
// the promise to resume to the same bits, kept by the real model.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { InterruptedError } from "../../src/errors.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { openAdapter } from "../../src/formats/peft.ts";
import { readTensorData } from "../../src/formats/safetensors.ts";
import { checkpointSource, Llama, type LoraOptions, type ModelOptions } from "../../src/model/index.ts";
import type { Device } from "../../src/native/index.ts";
import { NoisyTrainer, runLimits, type TrainerOptions, type TrainerSettings } from "../../src/train/index.ts";
import { describeBackends } from "../backends.ts";
import {
  folder,
  type GoldenCase,
  type GoldenQuantizedCase,
  type GoldenRun,
  llamaNames,
  loadForRun,
  readCase,
  relative,
  toSample,
} from "../golden/support.ts";
import { inMemory, scratchFolder } from "../scratch.ts";

setDefaultTimeout(120_000);
const root = scratchFolder(inMemory);
let folders = 0;

const optionsOf = (run: GoldenRun): Partial<TrainerOptions> => ({
  alpha: run.neftune?.alpha ?? 0,
  neftNoise: run.neftune?.noise ?? "uniform",
  seed: run.neftune?.seed ?? 42,
  shuffle: "none",
  epochs: 1,
  maxSteps: run.record.length,
  batchSize: run.micro_batch,
  gradientAccumulationSteps: run.accumulation,
  learningRate: run.lr,
  warmupSteps: run.record.findIndex(({ lr }) => lr === run.lr),
  weightDecay: run.weight_decay,
  adamBeta1: run.betas[0],
  adamBeta2: run.betas[1],
  adamEpsilon: run.eps,
  maxGradNorm: run.max_grad_norm,
});

interface Setup {
  device: Device;
  name: string;
  golden: Pick<GoldenCase, "samples">;
  run: GoldenRun;
  tune?: "lora" | "full";
  /** Instead of the golden run's model: LoRA as the model starts it. */
  fresh?: Pick<ModelOptions, "dtype" | "lora" | "recompute">;
  settings?: Partial<TrainerSettings>;
}

/** Trains a model loaded for it; the caller reads the folder. */
async function train({
  device,
  name,
  golden,
  run,
  tune = "lora",
  fresh,
  settings = {},
}: Setup): Promise<string> {
  const output = settings.output ?? join(root, String(folders++));
  const dataset = golden.samples.map(toSample);
  const origin = { dir: join(folder, "models", name), name: `models/${name}` };
  const planned = { dataset, evalDataset: dataset, options: { ...optionsOf(run), ...settings.options } };
  const limits = runLimits(planned);
  const model = fresh
    ? Llama.load(device, checkpointSource(origin.dir), { ...fresh, tune: "lora", seed: 42, ...limits })
    : loadForRun(device, name, run, tune, limits);
  try {
    await new NoisyTrainer({ model, origin, ...settings, ...planned, output }).train();
  } finally {
    model.close();
  }
  return output;
}

type Line = Record<string, number>;

function linesOf(output: string): Line[] {
  return readFileSync(join(output, "metrics.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => {
      const { seconds, tokens_per_second, peak_memory_bytes, ...rest } = JSON.parse(line) as Line;
      return rest as Line;
    });
}

function expectRecord(output: string, run: GoldenRun): void {
  const lines = linesOf(output);
  for (const [i, step] of run.record.entries()) {
    const { loss, grad_norm, learning_rate, samples, target_tokens } = lines[i]!;
    expect({ step: lines[i]!.step, samples, target_tokens }).toEqual({
      ...{ step: i + 1, samples: step.samples.length, target_tokens: step.targets },
    });
    expect(Math.fround(learning_rate!)).toBe(Math.fround(step.lr));
    expect(relative(loss!, step.loss), `loss of step ${i}: ${loss}, not ${step.loss}`).toBeLessThan(1e-5);
    expect(relative(grad_norm!, step.grad_norm), `gradient norm of step ${i}`).toBeLessThan(2e-5);
  }
  expect(relative(lines.at(-1)!.eval_loss!, run.eval_loss_after)).toBeLessThan(1e-5);
}

/** Relative L2 distance of two adapters, the largest of any tensor. */
function adapterDistance(a: string, b: string): number {
  const [left, right] = [openAdapter(a).weights, openAdapter(b).weights];
  expect([...left.tensors.keys()].sort()).toEqual([...right.tensors.keys()].sort());
  const distances = [...left.tensors.keys()].map((name) => {
    const [x, y] = [left, right].map((file) => new Float32Array(readTensorData(file, name).slice().buffer));
    const length = (of: (i: number) => number) => Math.sqrt(y!.reduce((sum, _, i) => sum + of(i) ** 2, 0));
    return length((i) => x![i]! - y![i]!) / length((i) => y![i]!);
  });
  return Math.max(...distances);
}

/** Stops a run after `step` steps as Ctrl-C does. */
async function interrupt(setup: Setup, step: number): Promise<void> {
  const stop = new AbortController();
  const reporter = { onStep: (metrics: { step: number }) => metrics.step === step && stop.abort() };
  const stopped = train({ ...setup, settings: { ...setup.settings, reporter, signal: stop.signal } });
  await expect(stopped).rejects.toThrow(InterruptedError);
}

describeBackends((device) => {
  for (const name of llamaNames) {
    describe(name, async () => {
      const golden = await readCase(name);

      for (const run of [...golden.lora_train, ...golden.lora_train_neftune]) {
        test(`LoRA ${run.name}: metrics and the adapter on disk`, async () => {
          const output = await train({ device, name, golden, run });
          expectRecord(output, run);
          expect(adapterDistance(output, join(folder, run.adapter_final))).toBeLessThan(1e-4);
          const config = JSON.parse(readFileSync(join(output, "adapter_config.json"), "utf8"));
          expect(config.base_model_name_or_path).toBe(`models/${name}`);
        });
      }

      test("another split of a step, padded or packed, one sample at a time or merged: within float32's rounding", async () => {
        const run = golden.lora_train_neftune[0]!;
        for (const options of [
          { batchSize: 1, gradientAccumulationSteps: 4 },
          { batchSize: 1, gradientAccumulationSteps: 4, packing: false, microBatchTokens: 40 },
        ]) {
          const output = await train({ device, name, golden, run, settings: { options } });
          expectRecord(output, run);
          expect(adapterDistance(output, join(folder, run.adapter_final))).toBeLessThan(1e-4);
        }
      });

      test("full: the record, a model in the base's dtype with its config and tokenizer, resumed to the same bits", async () => {
        const run = golden.full_train_neftune;
        const whole = await train({ device, name, golden, run, tune: "full" });
        expectRecord(whole, run);
        const base = openCheckpoint(join(folder, "models", name));
        const trained = openCheckpoint(whole);
        expect([...trained.tensors.keys()].sort()).toEqual([...base.tensors.keys()].sort());
        for (const [tensor, { entry }] of trained.tensors) {
          const { dtype, shape } = base.tensors.get(tensor)!.entry;
          expect({ tensor, dtype: entry.dtype, shape: entry.shape }).toEqual({ tensor, dtype, shape });
        }
        const companions = readdirSync(base.dir).filter((file) => !file.includes("safetensors"));
        expect(companions).toContain("config.json");
        for (const file of companions) {
          expect(readFileSync(join(whole, file)).equals(readFileSync(join(base.dir, file)))).toBe(true);
        }

        const output = join(root, String(folders++));
        await interrupt({ device, name, golden, run, tune: "full", settings: { output } }, 2);
        await train({ device, name, golden, run, tune: "full", settings: { output, resume: true } });
        expect(linesOf(output)).toEqual(linesOf(whole));
        const bytes = (dir: string) => readFileSync(join(dir, "model.safetensors"));
        expect(bytes(output).equals(bytes(whole))).toBe(true);
      });
    });
  }

  describe("tiny-mha-nf4", async () => {
    const golden = await readCase<GoldenQuantizedCase>("tiny-mha-nf4");
    for (const run of golden.qlora_train) {
      test(`QLoRA ${run.name}: metrics and the adapter on disk`, async () => {
        const output = await train({ device, name: "tiny-mha-nf4", golden, run });
        expectRecord(output, run);
        expect(adapterDistance(output, join(folder, run.adapter_final))).toBeLessThan(1e-4);
      });
    }
  });

  describe("resuming", () => {
    for (const dtype of ["f32", "bf16"] as const) {
      test(`LoRA with dropout, shuffling and noise in ${dtype}: the same bits, stopped once and again`, async () => {
        const golden = await readCase("tiny-mha-f32");
        const run = golden.lora_train_neftune[0]!;
        const lora: LoraOptions = {
          ...{
            r: 4,
            alpha: 8,
            dropout: 0.2,
            targetModules: ["q_proj", "o_proj", "down_proj"],
            useRslora: true,
          },
        };
        const options = { shuffle: "seed", epochs: 3, maxSteps: 14, saveSteps: 5 } as const;
        const fresh = { dtype, lora, recompute: "layer" } as const;
        const setup = { device, name: "tiny-mha-f32", golden, run, fresh };
        const straight = await train({ ...setup, settings: { options } });
        const output = join(root, String(folders++));
        await interrupt({ ...setup, settings: { options, output } }, 3);
        await interrupt({ ...setup, settings: { options, output, resume: true } }, 11);
        await train({ ...setup, settings: { options, output, resume: true } });
        expect(linesOf(output)).toEqual(linesOf(straight));
        expect(linesOf(straight).filter(({ loss }) => loss !== undefined)).toHaveLength(14);
        const bytes = (dir: string) => readFileSync(join(dir, "adapter_model.safetensors"));
        expect(bytes(output).equals(bytes(straight))).toBe(true);
        expect(readdirSync(join(output, "checkpoints")).sort()).toEqual([
          ...["step-00000010", "step-00000011", "step-00000014"],
        ]);
      });
    }
  });
});
