// Which model and data a run takes, and how rows become tokens.

import { lossTargets } from "../data/script.ts";
import { inGroup } from "./spec.ts";

export const modelOption = {
  type: "string",
  value: "NAME|DIR|ID",
  help: "the model: a preset (llama2-7b; neftune models lists them), a preset file (my.toml), a local folder, or a Hub id org/name[@revision], downloaded unless the Hugging Face cache has it; required",
  identity: "derived",
  aliases: ["model-name-or-path", "model-name", "base-model"],
} as const;

/** What --prompt-template takes. */
export const templateHelp =
  "alpaca, chat (the tokenizer's chat template), vicuna, llama2 (Llama 2 Chat), llama3, chatml, mistral, or a Jinja chat template file (given messages, tools, bos_token, eos_token and add_generation_prompt)";

export const templateDateOption = {
  type: "date",
  value: "YYYY-MM-DD",
  help: "date that a chat template's strftime_now returns (default: the day the run began, else today)",
  identity: "derived",
} as const;

/** Which rows are read and what their fields are called: the same for every command that reads data. */
export const readingOptions = inGroup("Data", {
  columns: {
    type: "list",
    value: "FIELD=COLUMN,…",
    help: "columns of the data that hold the expected fields: instruction=question,output=answer",
    identity: "derived",
  },
  split: {
    type: "string",
    value: "NAME",
    help: "part of a folder or Hub data set to read: train, validation, test or another name in its file names (default train, or everything if nothing is named train)",
    identity: "derived",
    aliases: ["dataset-train-split"],
  },
  samples: {
    type: "int",
    min: 1,
    help: "use only the first N rows of each data set",
    identity: "derived",
    aliases: ["max-samples", "max-train-samples"],
  },
});

/** How rows become tokens: the same for training, evaluation and preview. */
export const encodingOptions = {
  ...readingOptions,
  ...inGroup("Data", {
    "prompt-template": {
      type: "string",
      value: "NAME|FILE",
      help: `template for all rows: ${templateHelp}. Default: the model preset's template, else one chosen by each row's format`,
      identity: "derived",
    },
    "template-date": templateDateOption,
    "loss-on": {
      type: "enum",
      values: lossTargets,
      default: "answers",
      help: "tokens that count as targets of the loss: those of every answer, of each row's last answer, or all",
      identity: "derived",
    },
    "max-length": {
      type: "int",
      default: 512,
      min: 1,
      help: "cut samples to this many tokens",
      identity: "derived",
      aliases: ["max-seq-length", "cutoff-len", "sequence-len"],
    },
    "skip-bad-rows": {
      type: "bool",
      default: false,
      help: "leave out and count rows that cannot be used, instead of stopping at the first one",
      identity: "derived",
    },
    "parse-special": {
      type: "bool",
      default: false,
      help: "turn text that looks like a special token (</s>) into that token",
      identity: "derived",
    },
  }),
} as const;

export const dataOptions = {
  model: modelOption,
  ...inGroup("Data", {
    dataset: {
      type: "repeated",
      default: ["alpaca"],
      value: "NAME|FILE|ID",
      help: "training data: a .json, .jsonl, .csv or .parquet file (text files also as .gz or .zst), a folder of such files, a preset (alpaca) or a Hub id; may be repeated. A weight after a colon says how often each sample is used: a.json:0.3 draws three tenths of the samples, a.json:2 uses each one twice",
      identity: "derived",
      aliases: ["dataset-name", "train-file"],
    },
    "eval-dataset": {
      type: "repeated",
      value: "NAME|FILE|ID",
      help: "data to evaluate on during training, with noise off; may be repeated",
      identity: "derived",
      aliases: ["validation-file"],
    },
    "eval-split": {
      type: "float",
      min: 0,
      help: "share (0.05) or number (500) of samples to hold out for evaluation; 0 holds out none",
      identity: "derived",
      aliases: ["val-set-size", "val-size"],
    },
    "eval-samples": {
      type: "int",
      min: 1,
      help: "evaluate on at most N samples: the first N rows of each evaluation data set, or N of the samples that --eval-split holds out",
      identity: "derived",
      aliases: ["max-eval-samples"],
    },
  }),
  ...encodingOptions,
  samples: { ...encodingOptions.samples, help: "train on only the first N rows of each data set" },
} as const;
