// How the next token is chosen: the same for every command that generates.

import type { OptionTable } from "../../options/spec.ts";

export const samplingOptions = {
  temperature: {
    type: "float",
    group: "Sampling",
    default: 0,
    min: 0,
    help: "sampling temperature; 0 always takes the most likely token",
  },
  "top-p": {
    type: "float",
    group: "Sampling",
    default: 1,
    above: 0,
    max: 1,
    help: "sample from the most likely tokens whose probabilities add up to this",
  },
  "top-k": {
    type: "int",
    group: "Sampling",
    default: 0,
    min: 0,
    help: "sample from the N most likely tokens; 0 uses all",
  },
  "min-p": {
    type: "float",
    group: "Sampling",
    default: 0,
    min: 0,
    max: 1,
    help: "leave out tokens less likely than this fraction of the likeliest; 0 leaves out none",
  },
  "repetition-penalty": {
    type: "float",
    group: "Sampling",
    default: 1,
    above: 0,
    help: "penalty on tokens of the prompt and the completion, as in Transformers; 1 is none",
  },
  seed: { type: "int", group: "Sampling", default: 42, min: 0, help: "seed for sampling" },
} as const satisfies OptionTable;

export interface SamplingValues {
  temperature: number;
  "top-p": number;
  "top-k": number;
  "min-p": number;
  "repetition-penalty": number;
  seed: number;
}

export const samplingOf = (values: SamplingValues) => ({
  temperature: values.temperature,
  topP: values["top-p"],
  topK: values["top-k"],
  minP: values["min-p"],
  repetitionPenalty: values["repetition-penalty"],
  seed: values.seed,
});
