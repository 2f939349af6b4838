// The reference numbers of PyTorch, Transformers and PEFT that test/golden holds, with their types.

import { expect } from "bun:test";
import { join } from "node:path";
import { makeBatch } from "../../src/data/batch.ts";
import { openAdapter } from "../../src/formats/peft.ts";
import { readTensorData } from "../../src/formats/safetensors.ts";
import {
  adapterLoraOptions,
  adapterTensors,
  checkpointSource,
  Llama,
  loadAdapter,
  type ModelOptions,
  type Recompute,
} from "../../src/model/index.ts";
import type { Device } from "../../src/native/index.ts";
import { neftune } from "../../src/train/noise.ts";
import { accumulateGradients, trainStep } from "../../src/train/step.ts";

export const folder = import.meta.dir;
export const llamaNames = ["tiny-mha-f32", "tiny-gqa-bf16-sharded"] as const;
/** One of each kind, and a second Llama. */
export const modelNames = [
  ...llamaNames,
  "tiny-mistral-window",
  "tiny-qwen2-tied-bf16",
  "tiny-qwen3",
] as const;

export interface GoldenSample {
  ids: number[];
  labels: number[];
}

export interface GoldenStep {
  step: number;
  samples: number[];
  targets: number;
  lr: number;
  loss: number;
  grad_norm: number;
  draws?: number[];
}

export interface GoldenRun {
  name: string;
  adapter_init: string;
  adapter_final: string;
  lr: number;
  betas: [number, number];
  eps: number;
  weight_decay: number;
  max_grad_norm: number;
  micro_batch: number;
  accumulation: number;
  neftune?: { alpha: number; noise: "uniform" | "bernoulli" | "gaussian"; seed: number };
  eval_loss_before: number;
  eval_loss_after: number;
  record: GoldenStep[];
}

export interface GoldenFullRun extends GoldenRun {
  tensors: Record<string, { decayed: boolean; norm: number; change_norm: number }>;
  /** How far PyTorch is from itself with padding and another attention kernel: rounding alone. */
  other_order: { weights_relative_l2: number };
}

export interface GoldenCase {
  forward: {
    ids: number[];
    labels: number[];
    targets: number;
    loss: number;
    logsumexp: number[];
    max: number[];
    logits: { position: number; values: number[] }[];
  }[];
  generate: {
    prompt: number[];
    repetition_penalty: number;
    new_tokens: number;
    ids: number[];
    until_eos: number;
  }[];
  samples: GoldenSample[];
  lora_train: GoldenRun[];
  lora_train_neftune: GoldenRun[];
  full_train: GoldenFullRun;
  full_train_neftune: GoldenFullRun;
}

/** The case of a model in NF4. */
export interface GoldenQuantizedCase extends Pick<GoldenCase, "forward" | "generate" | "samples"> {
  qlora_train: GoldenRun[];
}

export async function readCase<T = GoldenCase>(name: string): Promise<T> {
  return (await Bun.file(join(folder, "cases", `${name}.json`)).json()) as T;
}

export const toSample = ({ ids, labels }: GoldenSample) => ({
  ids: Int32Array.from(ids),
  labels: Int32Array.from(labels),
  truncated: false,
});

export const packed = (samples: GoldenSample[]) => makeBatch(samples.map(toSample), { packing: true });
export const padded = (samples: GoldenSample[]) =>
  makeBatch(samples.map(toSample), { packing: false, padId: 0 });

/** Both must give the same numbers. */
export const layouts = [
  ["packed", packed],
  ["padded", padded],
] as const;

const sizes = { maxTokens: 2048, maxTargets: 2048, maxPosition: 512, seed: 42, recompute: "none" } as const;

/** The model with the settings of a golden run: LoRA from its starting adapter, or full. */
export function loadForRun(
  device: Device,
  name: string,
  run: GoldenRun | null,
  tune: "lora" | "full",
  changes: Partial<ModelOptions> = {},
): Llama {
  const source = checkpointSource(join(folder, "models", name));
  if (run === null || tune === "full") {
    return Llama.load(device, source, {
      ...sizes,
      dtype: "f32",
      tune: run === null ? "none" : "full",
      ...changes,
    });
  }
  const adapter = openAdapter(join(folder, run.adapter_init));
  const lora = adapterLoraOptions(adapter.dir, adapter.config, source.config);
  const model = Llama.load(device, source, { ...sizes, dtype: "f32", tune: "lora", lora, ...changes });
  if (model.parameters !== null) loadAdapter(model.parameters, adapter);
  return model;
}

export const relative = (got: number, want: number) => Math.abs(got - want) / Math.abs(want);

export const mean = (losses: Float32Array) => losses.reduce((sum, loss) => sum + loss, 0) / losses.length;

/** Over all samples of a case, noise off. */
export function evalLoss(model: Llama, golden: Pick<GoldenCase, "samples">): number {
  const losses = golden.samples.flatMap((sample) => [...model.evaluate(packed([sample]))]);
  return mean(Float32Array.from(losses));
}

// What is checked against a golden takes `slack`: how many times wider its limits are than float32's rounding asks for.

/** A recorded run, laid out in one way. */
export interface RunCheck {
  golden: Pick<GoldenCase, "samples">;
  run: GoldenRun;
  layout?: typeof packed;
  slack?: number;
  onStep?: (i: number) => void;
}

/** Runs the recorded steps; checks each step's loss and norm. */
export function runSteps(model: Llama, { golden, run, layout = packed, slack = 1, onStep }: RunCheck): void {
  const noise = run.neftune;
  if (noise !== undefined) {
    model.embedTokens.registerForwardHook(neftune({ ...noise, length: "true" })!);
  }
  for (const [i, step] of run.record.entries()) {
    const batches = Array.from({ length: run.accumulation }, (_, micro) => {
      const range = [micro * run.micro_batch, (micro + 1) * run.micro_batch] as const;
      return {
        draws: BigInt64Array.from((step.draws ?? step.samples).slice(...range), BigInt),
        batch: layout(step.samples.slice(...range).map((index) => golden.samples[index]!)),
      };
    });
    const { loss, gradNorm, targetTokens } = trainStep(model, batches, {
      maxGradNorm: run.max_grad_norm,
      adamw: {
        learningRate: step.lr,
        beta1: run.betas[0],
        beta2: run.betas[1],
        epsilon: run.eps,
        weightDecay: run.weight_decay,
        step: i + 1,
      },
    });
    expect(targetTokens).toBe(step.targets);
    expect(relative(loss, step.loss), `loss of step ${i}: ${loss}, not ${step.loss}`).toBeLessThan(
      1e-5 * slack,
    );
    expect(
      relative(gradNorm, step.grad_norm),
      `gradient norm of step ${i}: ${gradNorm}, not ${step.grad_norm}`,
    ).toBeLessThan(2e-5 * slack);
    onStep?.(i);
  }
}

/** One LoRA run from its starting adapter: its steps, the adapter at the end, the loss before and after. */
export function expectLoraRun(model: Llama, check: RunCheck): void {
  const { golden, run, slack = 1 } = check;
  expect(relative(evalLoss(model, golden), run.eval_loss_before)).toBeLessThan(1e-5 * slack);
  runSteps(model, check);
  expectAdapter(model, join(folder, run.adapter_final), slack);
  expect(relative(evalLoss(model, golden), run.eval_loss_after)).toBeLessThan(1e-5 * slack);
}

/** Loss and gradients of one micro-batch, to the bit, from models that keep or recompute their activations. */
export function expectSameRecomputed(
  load: (recompute: Recompute) => Llama,
  golden: Pick<GoldenCase, "samples">,
): void {
  const batch = packed(golden.samples.slice(0, 4));
  const gradients = (["none", "mlp", "layer"] as const).map((recompute) => {
    const model = load(recompute);
    const { loss } = accumulateGradients(model, [{ batch, draws: BigInt64Array.of(0n, 1n, 2n, 3n) }]);
    const result = [loss, ...model.device.readFloats(model.parameters!.gradients)];
    model.close();
    return result;
  });
  expect(gradients[1]).toEqual(gradients[0]!);
  expect(gradients[2]).toEqual(gradients[0]!);
}

/** The losses of a bf16 model within 1 % of float32's. */
export function expectNearBf16(model: Llama, golden: Pick<GoldenCase, "forward">): void {
  for (const sequence of golden.forward.filter(({ targets }) => targets > 0))
    expect(relative(mean(model.evaluate(packed([sequence]))), sequence.loss)).toBeLessThan(0.01);
}

/** The trained values against those of a golden adapter. */
export function expectAdapter(model: Llama, dir: string, slack = 1): void {
  const golden = openAdapter(dir).weights;
  for (const { name, data } of adapterTensors(model.parameters!)) {
    const got = new Float32Array((typeof data === "function" ? data() : data).buffer);
    const want = new Float32Array(readTensorData(golden, name).slice().buffer);
    let [difference, size, worst] = [0, 0, 0];
    for (let i = 0; i < want.length; i++) {
      difference += (got[i]! - want[i]!) ** 2;
      size += want[i]! ** 2;
      worst = Math.max(worst, Math.abs(got[i]! - want[i]!));
    }
    expect(Math.sqrt(difference / size), `${name}: relative distance`).toBeLessThan(1e-4 * slack);
    expect(worst, `${name}: largest difference`).toBeLessThan(1e-4 * slack);
  }
}

/** Logits and losses of every sequence of a case. */
export function expectForward(model: Llama, golden: Pick<GoldenCase, "forward">, slack = 1): void {
  const V = model.config.vocabSize;
  for (const sequence of golden.forward) {
    const batch = packed([sequence]);
    const logits = model.logits(batch, Int32Array.from(sequence.ids.keys()));
    for (const [t] of sequence.ids.entries()) {
      const row = logits.subarray(t * V, (t + 1) * V);
      const max = row.reduce((most, x) => Math.max(most, x), -Infinity);
      const logsumexp = max + Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0));
      expect(Math.abs(max - sequence.max[t]!)).toBeLessThan(1e-4 * slack);
      expect(Math.abs(logsumexp - sequence.logsumexp[t]!)).toBeLessThan(1e-4 * slack);
    }
    for (const { position, values } of sequence.logits) {
      for (const [i, value] of values.entries())
        expect(Math.abs(logits[position * V + i]! - value)).toBeLessThan(1e-4 * slack);
    }
    const losses = model.evaluate(batch);
    if (sequence.targets > 0) expect(relative(mean(losses), sequence.loss)).toBeLessThan(5e-6 * slack);
  }
}
