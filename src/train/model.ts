// What training and evaluation need of a model. `Llama` is one; the interface keeps the loop apart from how a model
// computes, and lets it be tested with one of three numbers.

import { NeftuneError } from "../errors.ts";
import type { Llama, LoraOptions, ParameterBlock } from "../model/index.ts";
import type { Device } from "../native/index.ts";

export type TrainedParameters = Pick<
  ParameterBlock,
  | "tensors"
  | "part"
  | "zeroGradients"
  | "skipBatch"
  | "startGradientNorm"
  | "adamwStep"
  | "findNonFinite"
  | "read"
  | "write"
  | "afterWrite"
  | "stateTensors"
  | "readState"
  | "writeState"
  | "lead"
  | "follow"
>;

/** What of them is written. */
export type TrainedValues = Pick<
  TrainedParameters,
  "tensors" | "part" | "read" | "stateTensors" | "readState"
>;

export type EvaluableModel = Pick<Llama, "evaluate">;

export interface TrainableModel extends Pick<Llama, "config" | "evaluate" | "startBatch"> {
  readonly options: Pick<Llama["options"], "dtype" | "tune" | "lora" | "quantization" | "optim" | "partners">;
  readonly device: Pick<
    Device,
    "peakMemory" | "expectFilesUnchanged" | "matmulChoices" | "useMatmulChoices"
  > & { readonly info: object };
  readonly plan: Pick<Llama["plan"], "total">;
  readonly parameters: TrainedParameters | null;
  readonly embedTokens: Pick<Llama["embedTokens"], "registerForwardHook">;
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

/** What is trained. Throws NeftuneError where the model was loaded without anything to train. */
export function trainedParameters<P>({ parameters }: { readonly parameters: P | null }): P {
  if (parameters !== null) return parameters;
  throw new NeftuneError("model", 'the model was loaded with tune "none"; training needs "lora" or "full"');
}
