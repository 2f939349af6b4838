// --quantization on the command line: its options, and a model loaded as they say.

import { UsageError } from "../errors.ts";
import {
  checkpointSource,
  Llama,
  type LlamaConfig,
  type ModelOptions,
  QuantizedCache,
} from "../model/index.ts";
import type { Device } from "../native/index.ts";
import { trainDefaults } from "../train/index.ts";
import type { Context } from "./command.ts";
import type { OptionTable } from "./options.ts";

const group = "Quantization";

export const quantizationOptions = {
  quantization: {
    type: "enum",
    group,
    values: ["none", "nf4"],
    default: trainDefaults.quantization,
    help: "quantize the frozen weights while loading them; nf4 (QLoRA) keeps the linear layers in 4 bits. A checkpoint that is already quantized needs no flag",
  },
  "double-quantization": {
    type: "bool",
    group,
    default: trainDefaults.doubleQuantization,
    help: "also quantize the scales of NF4: 4.13 bits per weight instead of 4.5",
  },
  "quantized-cache": {
    type: "path",
    group,
    value: "DIR",
    help: "store the NF4 weights in this folder and load them from there next time",
  },
} as const satisfies OptionTable;

export interface QuantizationValues {
  quantization: "none" | "nf4";
  "double-quantization": boolean;
  "quantized-cache": string | undefined;
}

/** Options that exclude each other, before anything is opened. */
export function checkQuantization(values: QuantizationValues): void {
  if (values["quantized-cache"] !== undefined && values.quantization !== "nf4")
    throw new UsageError("--quantized-cache stores what --quantization nf4 makes; add --quantization nf4");
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
