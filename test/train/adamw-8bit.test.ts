// Whole runs with --optim adamw8bit: what their checkpoints hold, the same bits after a stop, losses near AdamW's.

import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { InterruptedError } from "../../src/errors.ts";
import { readSafetensorsHeader } from "../../src/formats/safetensors.ts";
import { checkpointSource, Llama, type ModelOptions } from "../../src/model/index.ts";
import type { Device } from "../../src/native/index.ts";
import { NoisyTrainer, runLimits, type TrainerOptions } from "../../src/train/index.ts";
import { describeBackends } from "../backends.ts";
import { folder, readCase, toSample } from "../golden/support.ts";
import { scratchFolder } from "../scratch.ts";

setDefaultTimeout(120_000);
const scratch = scratchFolder();
const newFolder = () => mkdtempSync(join(scratch, "run-"));

const origin = { dir: join(folder, "models", "tiny-mha-f32"), name: "tiny" };
const dataset = (await readCase("tiny-mha-f32")).samples.map(toSample);

interface Run {
  optim?: TrainerOptions["optim"];
  loadedWith?: TrainerOptions["optim"];
  tune?: "lora" | "full";
  steps?: number;
  /** Stops after so many steps. */
  stopAfter?: number;
  resume?: boolean;
}

async function train(
  device: Device,
  output: string,
  { optim = "adamw8bit", loadedWith = optim, tune = "full", steps = 6, stopAfter, resume = false }: Run = {},
) {
  const options = { optim, maxSteps: steps, batchSize: 2, saveSteps: 2, learningRate: 1e-3 };
  const planned = { dataset, options };
  const model = Llama.load(device, checkpointSource(origin.dir), {
    ...({
      dtype: "f32",
      tune,
      recompute: "none",
      seed: 42,
      optim: loadedWith,
    } satisfies Partial<ModelOptions>),
    // B of the key is too small for codes, A of the up projection is not.
    lora: { r: 64, alpha: 64, dropout: 0, targetModules: ["q_proj", "up_proj"], useRslora: false },
    ...runLimits(planned),
  });
  const stop = new AbortController();
  const reporter = { onStep: ({ step }: { step: number }) => step === stopAfter && stop.abort() };
  try {
    await new NoisyTrainer({
      ...{ model, origin, output, resume, reporter, signal: stop.signal },
      ...planned,
    }).train();
  } finally {
    model.close();
  }
}

const stateFile = (output: string, step: number) =>
  join(output, "checkpoints", `step-${String(step).padStart(8, "0")}`, "optimizer.safetensors");
const lossesOf = (output: string): number[] =>
  readFileSync(join(output, "metrics.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line).loss);

describeBackends((device) => {
  test("a checkpoint holds codes and absmax of large tensors, float32 of small ones", async () => {
    const output = newFolder();
    await train(device, output, { steps: 2 });
    const { tensors } = readSafetensorsHeader(stateFile(output, 2));
    const shapes = (name: string) => {
      const { dtype, shape } = tensors.get(name)!;
      return [dtype, [...shape]];
    };
    for (const moment of ["m", "v"]) {
      const query = `${moment}.model.layers.0.self_attn.q_proj.weight`;
      expect(shapes(query)).toEqual(["U8", [64, 64]]);
      expect(shapes(`${query}.absmax`)).toEqual(["F32", [16]]);
      expect(shapes(`${moment}.model.norm.weight`)).toEqual(["F32", [64]]);
      expect(tensors.has(`${moment}.model.norm.weight.absmax`)).toBe(false);
    }
  });

  test.each(["full", "lora"] as const)(
    "a run that was stopped ends with the same bits, tune %s",
    async (tune) => {
      const [whole, stopped] = [newFolder(), newFolder()];
      await train(device, whole, { tune });
      const interrupted = train(device, stopped, { tune, stopAfter: 3 });
      expect(await interrupted.catch((error: unknown) => error)).toBeInstanceOf(InterruptedError);
      await train(device, stopped, { tune, resume: true });
      const result = tune === "full" ? "model.safetensors" : "adapter_model.safetensors";
      const filesOf = (output: string) =>
        [stateFile(output, 6), join(output, result)].map((path) => readFileSync(path));
      expect(filesOf(stopped)).toEqual(filesOf(whole));
      expect(lossesOf(stopped)).toEqual(lossesOf(whole));
    },
  );

  test("losses are near AdamW's, and not the same", async () => {
    const [plain, small] = [newFolder(), newFolder()];
    await train(device, plain, { optim: "adamw", steps: 12 });
    await train(device, small, { steps: 12 });
    const [want, got] = [lossesOf(plain), lossesOf(small)];
    expect(got).not.toEqual(want);
    for (const [i, loss] of got.entries()) expect(Math.abs(loss / want[i]! - 1)).toBeLessThan(0.01);
  });

  test("another optimizer does not resume a run; a model and its trainer agree on it", async () => {
    const output = newFolder();
    await train(device, output, { steps: 2 });
    await expect(train(device, output, { optim: "adamw", steps: 2, resume: true })).rejects.toThrow(
      "--optim was adamw8bit, is now none",
    );
    await expect(train(device, newFolder(), { loadedWith: "adamw" })).rejects.toThrow(
      'the model was loaded with optim "adamw", but optim is "adamw8bit"',
    );
  });
});
