// What Transformers, TRL, PEFT, Unsloth, axolotl and LLaMA-Factory call our options, in kebab case. The declaration of an
// option says which of their names mean the same; the table here says what to write where they do not.

import type { TrainingSpec } from "../../options/spec.ts";
import { optionEntries, trainingOptions } from "../../options/table.ts";

const AUTOMATIC = "leave it out: neftune does this by itself";
const DEVICES = "leave it out: --device says where a run goes; cuda:all uses every GPU of the machine";
const METRICS =
  "leave it out: metrics go to metrics.jsonl in --output, and to TensorBoard or MLflow with --report-to";
const NO_UPLOAD = "leave it out: a run stays in --output";
const ATTENTION = "leave it out: attention never builds the matrix of scores";
const LORA_ALONE = "leave it out: adapters are plain LoRA or rsLoRA (--use-rslora)";
const TEMPLATE = "write --prompt-template with a name or a Jinja file";
const LOSS_ON_ALL = "write --loss-on all to train on prompts as well";

/** Their name → what to write instead. Where a command has an option of the name, that wins. */
const instead: Readonly<Record<string, string>> = {
  // Memory and speed.
  "gradient-checkpointing": "write --recompute auto, none, mlp or layer: auto is the default",
  "gradient-checkpointing-kwargs": "leave it out: --recompute says what is recomputed",
  "use-gradient-checkpointing": "write --recompute auto, none, mlp or layer: auto is the default",
  bf16: "write --dtype bf16, the default",
  fp16: "write --dtype bf16, the default: there is no training in float16",
  "half-precision-backend": AUTOMATIC,
  tf32: "write --dtype bf16 or --dtype f32",
  "load-in-4bit": "write --quantization nf4",
  "load-in-8bit": "write --quantization nf4: there are no 8-bit weights",
  "quantization-bit": "write --quantization nf4 for 4 bits",
  "quantization-method": "write --quantization nf4",
  "bnb-4bit-quant-type": "write --quantization nf4",
  "bnb-4bit-compute-dtype": "write --dtype bf16 or --dtype f32",
  "optim-args": "write --adam-beta1, --adam-beta2 or --adam-epsilon",
  "flash-attn": ATTENTION,
  "flash-attention": ATTENTION,
  "use-flash-attention-2": ATTENTION,
  "attn-implementation": ATTENTION,
  "sdp-attention": ATTENTION,
  "xformers-attention": ATTENTION,
  "use-liger-kernel": AUTOMATIC,
  "enable-liger-kernel": AUTOMATIC,
  "use-unsloth": AUTOMATIC,
  "torch-compile": AUTOMATIC,
  "auto-find-batch-size": "write --batch-size and --gradient-accumulation-steps",
  "group-by-length": "leave it out: --packing, on by default, needs no padding",
  "pad-to-sequence-len": "leave it out: --packing, on by default, needs no padding",
  "padding-free": "leave it out: --packing, on by default, needs no padding",
  "dataloader-num-workers": AUTOMATIC,
  "dataset-num-proc": AUTOMATIC,
  "preprocessing-num-workers": AUTOMATIC,
  "dataset-prepared-path": "leave it out: tokenized data is cached by itself",
  "tokenized-path": "leave it out: tokenized data is cached by itself",
  "overwrite-cache": "leave it out: the cache of tokenized data follows changes by itself",
  // Devices.
  deepspeed: DEVICES,
  fsdp: DEVICES,
  "fsdp-config": DEVICES,
  "local-rank": DEVICES,
  "ddp-timeout": DEVICES,
  "ddp-find-unused-parameters": DEVICES,
  "device-map": "write --device cpu, cuda, cuda:N, cuda:all or auto",
  "use-cpu": "write --device cpu",
  "no-cuda": "write --device cpu",
  // Data.
  datasets: "write --dataset, once for each data set",
  "dataset-dir": "write the path as --dataset",
  "dataset-config": "write the file as --dataset org/name/path/to/file",
  "dataset-test-split": "write --eval-dataset or --eval-split",
  "dataset-text-field": "write --columns text=NAME",
  template: TEMPLATE,
  "chat-template": TEMPLATE,
  "chat-template-path": TEMPLATE,
  "train-on-inputs": LOSS_ON_ALL,
  "train-on-prompt": LOSS_ON_ALL,
  "mask-history": "write --loss-on last-answer",
  "assistant-only-loss": "leave it out: only answers are trained on",
  "completion-only-loss": "leave it out: only answers are trained on",
  "disable-shuffling": "write --shuffle none",
  "data-seed": "write --seed",
  "remove-unused-columns": AUTOMATIC,
  // Models and adapters.
  "model-revision": "write the revision into --model org/name@REVISION",
  "tokenizer-name": "leave it out: the tokenizer is the model's",
  "tokenizer-name-or-path": "leave it out: the tokenizer is the model's",
  "trust-remote-code": "leave it out: no code of a model is ever run",
  "use-peft": "write --tune lora, the default",
  "full-finetuning": "write --tune full",
  stage: "leave it out: training is supervised fine-tuning",
  "lora-target-linear": "leave it out: --target-modules has all linear layers by default",
  "use-dora": LORA_ALONE,
  "peft-use-dora": LORA_ALONE,
  bias: LORA_ALONE,
  "modules-to-save": LORA_ALONE,
  "lora-modules-to-save": LORA_ALONE,
  "init-lora-weights": LORA_ALONE,
  "loftq-config": LORA_ALONE,
  // Runs.
  "do-train": "leave it out: neftune train trains",
  "do-eval": "write --eval-dataset or --eval-split, or run neftune eval",
  "per-device-eval-batch-size": "write --batch-size: evaluation uses the same",
  "eval-batch-size": "write --batch-size: evaluation uses the same",
  "eval-strategy": "write --eval-steps N: without it evaluation comes once per epoch",
  "evaluation-strategy": "write --eval-steps N: without it evaluation comes once per epoch",
  "evals-per-epoch": "write --eval-steps N: without it evaluation comes once per epoch",
  "save-strategy": "write --save-steps N",
  "saves-per-epoch": "write --save-steps N",
  "logging-strategy": "write --logging-steps N",
  "resume-from-checkpoint": "write --resume with the folder of the run as --output",
  "auto-resume-from-checkpoints": "write --resume with the folder of the run as --output",
  "overwrite-output-dir": "write a new --output, or --resume to continue the run in it",
  "wandb-project": METRICS,
  "plot-loss": METRICS,
  "push-to-hub": NO_UPLOAD,
  "hub-model-id": NO_UPLOAD,
  "save-safetensors": "leave it out: weights are always saved as safetensors",
  "do-sample": "write --temperature above 0 to sample",
};

/** Their name → ours. An alias is known to every command that has the option. */
const ours = new Map(
  optionEntries.flatMap(([name, { aliases = [] }]) => aliases.map((alias) => [alias, name] as const)),
);

/** A value by the name that the option has for it. */
export function ownValue(option: string, text: string): string {
  const spec: TrainingSpec | undefined = Object.hasOwn(trainingOptions, option)
    ? trainingOptions[option as keyof typeof trainingOptions]
    : undefined;
  const own = spec?.valueAliases ?? {};
  return Object.hasOwn(own, text) ? own[text]! : text;
}

/** An option's name as the tables spell it: aliases resolved, underscores as hyphens. */
export function resolveName(written: string, known: Readonly<Record<string, unknown>>): string {
  const name = written.replaceAll("_", "-");
  if (Object.hasOwn(known, name)) return name;
  const target = ours.get(name);
  return target !== undefined && Object.hasOwn(known, target) ? target : name;
}

/** What to write instead of an option that only other trainers have; null if none has it. */
export function insteadOf(written: string, known: Readonly<Record<string, unknown>>): string | null {
  const name = written.replaceAll("_", "-");
  const advice = Object.hasOwn(instead, name) ? instead[name]! : null;
  if (advice === null) return null;
  // Do not advise an option that this command lacks.
  const [, option] = /^write --([a-z0-9-]+)/.exec(advice) ?? [];
  return option === undefined || Object.hasOwn(known, option) ? advice : null;
}
