// What training a model of some config needs on a device, before there are weights.

import {
  type LlamaConfig,
  type LoraOptions,
  linearModules,
  planFor,
  randomSource,
  type Tune,
} from "../../model/index.ts";
import type { Device } from "../../native/index.ts";
import { trainDefaults } from "../../train/index.ts";

export interface MemoryNeed {
  bytes: number;
  /** By the memory that is free now. */
  fits: boolean;
}

/** Tokens in a micro-batch of train's defaults: every sample as long as --max-length lets it be. */
export const DEFAULT_TOKENS = trainDefaults.batchSize * trainDefaults.maxLength;

/** LoRA as train does by default, LoRA on NF4 weights, or all weights, with AdamW's state in float32 or 8 bits. */
export type Tuning = "lora" | "qlora" | "full" | "full8bit";

/**
 * What `train` needs at least with its other options left as they are: with every layer recomputed. Where more is free,
 * --recompute auto keeps more; that says nothing of the model. Of several ranks, which divide what full tuning keeps: what
 * each needs.
 */
export function trainingMemory(device: Device, config: LlamaConfig, tuning: Tuning, ranks = 1): MemoryNeed {
  const tune: Tune = tuning === "full" || tuning === "full8bit" ? "full" : "lora";
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
    optim: tuning === "full8bit" ? ("adamw8bit" as const) : trainDefaults.optim,
    ...(ranks > 1 && tune === "full" ? { partners: { rank: 0, size: ranks } } : {}),
    recompute: "layer" as const,
    maxTokens: DEFAULT_TOKENS,
    maxTargets: DEFAULT_TOKENS,
  };
  const bytes = planFor(device, source, request, "input").total;
  return { bytes, fits: bytes <= device.freeMemory() };
}
