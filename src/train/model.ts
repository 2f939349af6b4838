// What training and evaluation need of a model. `Llama` is one; the interface keeps the loop apart from how a model
// computes, and lets it be tested with one of three numbers.

import type { Batch } from "../data/batch.ts";
import type { EmbeddingHook, LlamaConfig, LoraOptions, ParameterTensor, StateKind } from "../model/index.ts";
import type { AdamWOptions } from "../native/index.ts";

/** See `Parameters` in src/model/parameters.ts. */
export interface TrainedParameters {
  readonly tensors: readonly ParameterTensor[];
  zeroGradients(): void;
  gradientNorm(maxNorm: number): number;
  adamwStep(options: AdamWOptions): void;
  read(name: string, kind?: StateKind): Float32Array<ArrayBuffer>;
  write(name: string, values: Float32Array, kind?: StateKind): void;
  afterWrite(): void;
}

export interface EvaluableModel {
  evaluate(batch: Batch): Float32Array;
}

/** See `Llama` in src/model/llama.ts. */
export interface TrainableModel extends EvaluableModel {
  readonly config: LlamaConfig;
  readonly options: {
    readonly dtype: "f32" | "bf16";
    readonly tune: "none" | "lora" | "full";
    readonly lora?: LoraOptions;
  };
  readonly device: { readonly info: object };
  readonly plan: { readonly total: number };
  readonly parameters: TrainedParameters | null;
  readonly embedTokens: { registerForwardHook(hook: EmbeddingHook): () => void };
  trainBatch(batch: Batch, gradientScale: number, context: { draws: BigInt64Array }): Float32Array;
}

/** Where the starting weights came from: for the files of a run that name or repeat them. */
export interface ModelOrigin {
  /** Folder of the base checkpoint. */
  dir: string;
  /** What adapter_config.json calls it: a Hub id or the folder. */
  name: string;
}

/** LoRA's options, or null where all weights are trained. */
export function loraOf(model: TrainableModel): LoraOptions | null {
  return model.options.tune === "lora" ? (model.options.lora ?? null) : null;
}
