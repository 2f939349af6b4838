// A model from its folder: with an adapter, and quantized while it is loaded or from the cache of what was.

import { existsSync } from "node:fs";
import { NeftuneError } from "../errors.ts";
import { openAdapter } from "../formats/peft.ts";
import type { Device } from "../native/index.ts";
import { adapterLoraOptions, loadAdapter } from "./adapter.ts";
import type { LlamaConfig } from "./config.ts";
import { Llama, type ModelOptions } from "./llama.ts";
import type { LoraOptions } from "./lora.ts";
import type { Quantization } from "./quantize.ts";
import { QuantizedCache } from "./quantized-cache.ts";
import { checkpointSource } from "./source.ts";

/** To NF4, on loading. */
export interface QuantizationRequest extends Quantization {
  /** A folder that keeps the NF4 weights for the next time; null: none. */
  cache: string | null;
}

/** What is loaded. */
export interface LoadRequest {
  /** Folder of the base model. */
  dir: string;
  /** A PEFT adapter's folder; undefined: none. */
  adapter?: string | undefined;
  /** Null or none: the weights are used as the model has them. */
  quantization?: QuantizationRequest | null | undefined;
  /** A model on the same base, quantized alike, whose frozen weights are used; it is to be closed later. */
  weightsOf?: Llama | undefined;
}

/** Where weights in NF4 come from. */
export type WeightsOrigin =
  /** The checkpoint in `path` is quantized already. */
  | "checkpoint"
  /** The weights in `path` are quantized now. */
  | "quantizing"
  /** They are read from the cache's file `path`. */
  | "cached"
  /** They were quantized, and are kept as `path`. */
  | "kept";

/** Told while a model is loaded. */
export interface LoadReporter {
  /** Something that a person should know. */
  onNote?(text: string): void;
  onWeights?(origin: WeightsOrigin, path: string): void;
}

/**
 * Loads a model; `optionsOf` is given the LoRA options of the adapter, null without one. Fills the quantized cache where
 * it lacks the model. The caller closes the model.
 */
export function loadModel(
  device: Device,
  { dir, adapter: adapterDir, quantization = null, weightsOf }: LoadRequest,
  optionsOf: (lora: LoraOptions | null) => Omit<ModelOptions, "quantization">,
  reporter: LoadReporter = {},
): Llama {
  const adapter = adapterDir === undefined ? null : openAdapter(adapterDir);
  const options = (config: LlamaConfig) =>
    optionsOf(adapter === null ? null : adapterLoraOptions(adapter.dir, adapter.config, config));
  const model =
    weightsOf === undefined
      ? loadQuantized(device, dir, quantization, options, reporter)
      : loadShared(device, dir, weightsOf, options);
  try {
    if (adapter !== null) loadAdapter(model.parameters!, adapter);
    return model;
  } catch (error) {
    model.close();
    throw error;
  }
}

/** A model whose frozen weights are another's, in whatever form that has them. */
function loadShared(
  device: Device,
  dir: string,
  weightsOf: Llama,
  optionsOf: (config: LlamaConfig) => Omit<ModelOptions, "quantization">,
): Llama {
  const source = checkpointSource(dir);
  const { quantization = null } = weightsOf.options;
  return Llama.load(device, source, { ...optionsOf(source.config), quantization, weightsOf });
}

function loadQuantized(
  device: Device,
  dir: string,
  quantization: QuantizationRequest | null,
  optionsOf: (config: LlamaConfig) => Omit<ModelOptions, "quantization">,
  reporter: LoadReporter,
): Llama {
  const source = checkpointSource(dir);
  for (const note of source.notes) reporter.onNote?.(note);
  const options = optionsOf(source.config);
  if (quantization === null) return Llama.load(device, source, options);
  if (source.isQuantized) {
    reporter.onWeights?.("checkpoint", dir);
    return Llama.load(device, source, options);
  }
  const { cache: folder, double } = quantization;
  const cache = folder === null ? null : new QuantizedCache(folder, dir, source, { double }, device);
  const cached = cache?.open() ?? null;
  if (cache !== null && cached !== null) {
    reporter.onWeights?.("cached", cache.path);
    return Llama.load(device, checkpointSource(dir, cached), { ...options, quantization: { double } });
  }
  reporter.onWeights?.("quantizing", dir);
  const model = Llama.load(device, source, { ...options, quantization: { double } });
  if (cache === null) return model;
  try {
    cache.save(device, model.quantized);
    reporter.onWeights?.("kept", cache.path);
    return model;
  } catch (error) {
    model.close();
    throw error;
  }
}

export interface InferenceRequest extends LoadRequest {
  dtype: "f32" | "bf16";
}

/** A model, with its adapter where there is one, to evaluate or generate with. The caller closes it. */
export function loadForInference(
  device: Device,
  request: InferenceRequest,
  limits: Pick<ModelOptions, "maxTokens" | "maxTargets" | "maxPosition" | "larger" | "sizedBy">,
  reporter: LoadReporter = {},
): Llama {
  const { adapter, dtype } = request;
  if (adapter !== undefined && !existsSync(adapter))
    throw new NeftuneError("not_found", `--adapter ${adapter}: no such folder`);
  const { maxTokens, maxTargets, maxPosition, larger = [], sizedBy } = limits;
  const common = {
    ...({ dtype, recompute: "layer", seed: 0 } as const),
    ...{ maxTokens, maxTargets, maxPosition, larger },
    ...(sizedBy === undefined ? {} : { sizedBy }),
  };
  return loadModel(
    device,
    request,
    (lora) =>
      lora === null
        ? { ...common, tune: "none" }
        : { ...common, tune: "lora", lora: { ...lora, dropout: 0 }, inference: true },
    reporter,
  );
}
