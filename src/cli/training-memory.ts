// What training a model of some config needs on a device, before there are weights.

import {
  type LlamaConfig,
  type LoraOptions,
  linearModules,
  type ModelPlan,
  planFor,
  type Recompute,
  randomSource,
  type Tune,
} from "../model/index.ts";
import type { Device } from "../native/index.ts";
import { trainDefaults } from "../train/index.ts";

export interface MemoryNeed {
  bytes: number;
  /** By the memory that is free now. */
  fits: boolean;
  recompute: Recompute;
}

/** Tokens in a micro-batch of train's defaults: every sample as long as --max-length lets it be. */
export const DEFAULT_TOKENS = trainDefaults.batchSize * trainDefaults.maxLength;

const ways: readonly Recompute[] = ["none", "mlp", "layer"];

/** LoRA as train does by default, LoRA on NF4 weights, or all weights. */
export type Tuning = "lora" | "qlora" | "full";

/**
 * What `train` would plan with its other options left as they are: the least recomputation that fits free memory, as
 * with --recompute auto; where nothing fits, what needs least.
 */
export function trainingMemory(device: Device, config: LlamaConfig, tuning: Tuning): MemoryNeed {
  const tune: Tune = tuning === "full" ? "full" : "lora";
  const lora: LoraOptions = {
    r: trainDefaults.loraR,
    alpha: trainDefaults.loraAlpha,
    dropout: trainDefaults.loraDropout,
    targetModules: [...linearModules],
    useRslora: trainDefaults.useRslora,
  };
  const { dtype } = trainDefaults;
  const source = randomSource({ ...config, dtype });
  const request = {
    dtype,
    tune,
    lora: tune === "lora" ? lora : null,
    quantization: tuning === "qlora" ? { double: trainDefaults.doubleQuantization } : null,
    training: true,
    recompute: "auto" as const,
    maxTokens: DEFAULT_TOKENS,
    maxTargets: DEFAULT_TOKENS,
    uses: { forward: false, backward: false },
  };
  const free = device.freeMemory();
  const plans = ways.map((way): ModelPlan => planFor(device, source, request, way));
  const plan = plans.find(({ total }) => total <= free) ?? plans.at(-1)!;
  return { bytes: plan.total, fits: plan.total <= free, recompute: plan.recompute };
}
