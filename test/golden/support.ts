// The reference numbers of PyTorch, Transformers and PEFT that test/golden holds, with their types.

import { join } from "node:path";
import { makeBatch } from "../../src/data/batch.ts";
import { openAdapter } from "../../src/formats/peft.ts";
import {
  adapterLoraOptions,
  checkpointSource,
  Llama,
  loadAdapter,
  type ModelOptions,
} from "../../src/model/index.ts";
import type { Device } from "../../src/native/index.ts";

export const folder = import.meta.dir;
export const modelNames = ["tiny-mha-f32", "tiny-gqa-bf16-sharded"] as const;

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

export async function readCase(name: string): Promise<GoldenCase> {
  return (await Bun.file(join(folder, "cases", `${name}.json`)).json()) as GoldenCase;
}

export const toSample = ({ ids, labels }: GoldenSample) => ({
  ids: Int32Array.from(ids),
  labels: Int32Array.from(labels),
  truncated: false,
});

export const packed = (samples: GoldenSample[]) => makeBatch(samples.map(toSample), { packing: true });
export const padded = (samples: GoldenSample[]) =>
  makeBatch(samples.map(toSample), { packing: false, padId: 0 });

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
