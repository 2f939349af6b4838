// A model loaded as --quantization and its like say.

import {
  checkpointSource,
  Llama,
  type LlamaConfig,
  type ModelOptions,
  QuantizedCache,
} from "../model/index.ts";
import type { Device } from "../native/index.ts";
import type { Context } from "./command.ts";

export interface QuantizationValues {
  quantization: "none" | "nf4";
  "double-quantization": boolean;
  "quantized-cache": string | undefined;
}

/**
 * Loads the model in `dir`, quantized by `values` (none given: as it is). Fills the cache where it lacks the model. The
 * caller closes the model.
 */
export function loadModel(
  device: Device,
  dir: string,
  values: QuantizationValues | undefined,
  context: Pick<Context, "note">,
  optionsOf: (config: LlamaConfig) => Omit<ModelOptions, "quantization">,
): Llama {
  let source = checkpointSource(dir);
  for (const note of source.notes) context.note(note);
  const options = optionsOf(source.config);
  if (values === undefined || values.quantization === "none") return Llama.load(device, source, options);
  if (source.isQuantized) {
    context.note(`${dir} is quantized already and used as it is`);
    return Llama.load(device, source, options);
  }
  const quantization = { double: values["double-quantization"] };
  const folder = values["quantized-cache"];
  if (folder === undefined) {
    context.note(`quantizing ${dir} to NF4 while loading it`);
    return Llama.load(device, source, { ...options, quantization });
  }
  const cache = new QuantizedCache(folder, dir, source, quantization, device);
  const cached = cache.open();
  if (cached !== null) {
    context.note(`quantized weights: ${cache.path}`);
    source = checkpointSource(dir, cached);
  }
  if (cached === null) context.note(`quantizing ${dir} to NF4 while loading it`);
  const model = Llama.load(device, source, { ...options, quantization });
  try {
    if (cached === null) {
      cache.save(device, model.quantized);
      context.note(`quantized weights: kept as ${cache.path}`);
    }
    return model;
  } catch (error) {
    model.close();
    throw error;
  }
}
