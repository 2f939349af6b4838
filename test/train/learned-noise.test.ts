// A learned scale of the noise over a whole run: what it writes, and the same bits after a stop.

import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { InterruptedError } from "../../src/errors.ts";
import { readSafetensorsHeader, readTensorData } from "../../src/formats/safetensors.ts";
import { checkpointSource, Llama, type LoraOptions } from "../../src/model/index.ts";
import type { Device } from "../../src/native/index.ts";
import {
  NoisyTrainer,
  resolveTrainerOptions,
  runLimits,
  type TrainerOptions,
} from "../../src/train/index.ts";
import { describeBackends } from "../backends.ts";
import { folder, readCase, toSample } from "../golden/support.ts";
import { scratchFolder } from "../scratch.ts";

setDefaultTimeout(120_000);
const scratch = scratchFolder();

const origin = { dir: join(folder, "models", "tiny-mha-f32"), name: "tiny" };
const dataset = (await readCase("tiny-mha-f32")).samples.map(toSample);
const lora: LoraOptions = {
  ...{ r: 4, alpha: 8, dropout: 0, targetModules: ["q_proj", "v_proj"], useRslora: false },
};
const learned = { neftScale: "learned", neftScaleLearningRate: 0.01, maxSteps: 6, batchSize: 2 } as const;

interface Run {
  tune?: "lora" | "full";
  options?: Partial<TrainerOptions>;
  /** Stops after so many steps. */
  stopAfter?: number;
  resume?: boolean;
}

async function train(
  device: Device,
  output: string,
  { tune = "lora", options, stopAfter, resume = false }: Run,
) {
  const planned = { dataset, options: { ...learned, saveSteps: 2, ...options } };
  const model = Llama.load(device, checkpointSource(origin.dir), {
    ...{ dtype: "bf16", tune, lora, recompute: "none" },
    ...{ seed: 42, learnedNoise: resolveTrainerOptions(planned.options).alpha > 0 },
    ...runLimits(planned),
  });
  const stop = new AbortController();
  const reporter = { onStep: ({ step }: { step: number }) => step === stopAfter && stop.abort() };
  const settings = { model, origin, output, resume, reporter, signal: stop.signal, ...planned };
  try {
    await new NoisyTrainer(settings).train();
  } finally {
    model.close();
  }
}

const linesOf = (output: string): Record<string, number>[] =>
  readFileSync(join(output, "metrics.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

function scaleOf(output: string): Float32Array {
  const file = readSafetensorsHeader(join(output, "neft_scale.safetensors"));
  expect([...file.tensors.values()]).toMatchObject([{ name: "neft_scale", dtype: "F32", shape: [64] }]);
  return new Float32Array(readTensorData(file, "neft_scale").slice().buffer);
}

describeBackends((device) => {
  const root = mkdtempSync(join(scratch, "backend-"));
  const weights = { lora: "adapter_model.safetensors", full: "model.safetensors" } as const;

  test.each(["lora", "full"] as const)(
    "%s: metrics, the scale's file, and the same bits after a stop",
    async (tune) => {
      const [straight, stopped] = [join(root, `${tune}-straight`), join(root, `${tune}-stopped`)];
      await train(device, straight, { tune });
      const lines = linesOf(straight);
      expect(lines[0]).toMatchObject({ neft_scale_mean: 1, neft_scale_min: 1, neft_scale_max: 1 }); // a rate of 0
      const scale = scaleOf(straight);
      const { neft_scale_min: least, neft_scale_max: most } = lines.at(-1)!;
      expect([Math.fround(least!), Math.fround(most!)]).toEqual([Math.min(...scale), Math.max(...scale)]);
      expect(Math.max(...scale) - Math.min(...scale)).toBeGreaterThan(0.005);
      expect(existsSync(join(straight, "checkpoints", "step-00000006", "neft_scale.safetensors"))).toBe(true);

      await expect(train(device, stopped, { tune, stopAfter: 3 })).rejects.toThrow(InterruptedError);
      await train(device, stopped, { tune, resume: true });
      for (const name of ["neft_scale.safetensors", weights[tune]])
        expect(readFileSync(join(stopped, name)).equals(readFileSync(join(straight, name)))).toBe(true);
    },
  );

  test("without noise there is no scale; another scale is another run", async () => {
    const plain = join(root, "plain");
    await train(device, plain, { options: { alpha: 0 } });
    expect(existsSync(join(plain, "neft_scale.safetensors"))).toBe(false);
    expect(linesOf(plain)[0]).not.toHaveProperty("neft_scale_mean");

    const output = join(root, "other");
    await expect(train(device, output, { stopAfter: 2 })).rejects.toThrow(InterruptedError);
    const other = train(device, output, { resume: true, options: { neftScaleLearningRate: 0.02 } });
    await expect(other).rejects.toThrow("--neft-scale-learning-rate was 0.01, is now 0.02");
  });

  test("a model without the scale cannot learn one", () => {
    const options = {
      dtype: "f32",
      tune: "lora",
      lora,
    } as const;
    const limits = runLimits({ dataset, options: learned });
    const model = Llama.load(device, checkpointSource(origin.dir), {
      ...options,
      recompute: "none",
      seed: 1,
      ...limits,
    });
    const make = () => new NoisyTrainer({ model, dataset, options: learned, output: join(root, "never") });
    expect(make).toThrow("the model was loaded without learnedNoise");
    model.close();
  });
});

test("--neft-scale-learning-rate goes with a learned scale", () => {
  expect(() => resolveTrainerOptions({ neftScaleLearningRate: 0.1 })).toThrow("needs --neft-scale learned");
});
