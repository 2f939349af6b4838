// What is trained, and what the frozen rest is kept in.

import { linearModules } from "../model/architecture.ts";
import { inGroup } from "./spec.ts";

export const tuneOption = inGroup("Tuning", {
  tune: {
    type: "enum",
    values: ["lora", "full"],
    default: "lora",
    help: "train LoRA matrices or all weights",
    identity: "derived",
    aliases: ["finetuning-type"],
  },
});

export const shardOption = inGroup("Training", {
  shard: {
    type: "enum",
    values: ["auto", "none", "optimizer"],
    default: "auto",
    help: "auto, optimizer: several ranks divide gradients, float32 weights and AdamW's state among them; none: each keeps all of it",
    identity: "rounding",
    onlyWith: { option: "tune", value: "full" },
  },
});

export const quantizationOptions = inGroup("Quantization", {
  quantization: {
    type: "enum",
    values: ["none", "nf4"],
    default: "none",
    help: "quantize the frozen weights while loading them; nf4 (QLoRA) keeps the linear layers in 4 bits. A checkpoint that is already quantized needs no flag",
    identity: "derived",
  },
  "double-quantization": {
    type: "bool",
    default: true,
    help: "also quantize the scales of NF4: 4.13 bits per weight instead of 4.5",
    identity: "derived",
    onlyWith: { option: "quantization", value: "nf4" },
    aliases: ["use-bnb-nested-quant", "bnb-4bit-use-double-quant"],
  },
  "quantized-cache": {
    type: "path",
    value: "DIR",
    help: "store the NF4 weights in this folder and load them from there next time",
    onlyWith: { option: "quantization", value: "nf4" },
  },
});

const onlyLora = { option: "tune", value: "lora" } as const;
const ofAdapter = { identity: "derived", onlyWith: onlyLora, fromAdapter: true } as const;

export const loraOptions = inGroup("Tuning", {
  "lora-r": {
    type: "int",
    default: 16,
    min: 1,
    help: "LoRA rank",
    ...ofAdapter,
    aliases: ["r", "lora-rank"],
  },
  "lora-alpha": {
    type: "float",
    default: 16,
    above: 0,
    help: "LoRA alpha; the update is scaled by alpha / rank",
    ...ofAdapter,
  },
  "lora-dropout": {
    type: "float",
    default: 0,
    min: 0,
    below: 1,
    help: "dropout on the input of the LoRA matrices",
    identity: "derived",
    onlyWith: onlyLora,
  },
  "target-modules": {
    type: "list",
    values: linearModules,
    all: ["all-linear", "all"],
    default: linearModules,
    help: "linear layers that get LoRA matrices",
    ...ofAdapter,
    aliases: ["lora-target-modules", "lora-target"],
  },
  "use-rslora": {
    type: "bool",
    default: false,
    help: "scale the LoRA update by alpha / sqrt(rank) instead of alpha / rank",
    ...ofAdapter,
    aliases: ["peft-use-rslora"],
  },
  "loraplus-lr-ratio": {
    type: "float",
    above: 0,
    help: "LoRA+: the learning rate of the matrices B is this many times --learning-rate (default: the same for A and B; the paper takes 16)",
    trainer: true,
    identity: "unless default",
    onlyWith: onlyLora,
    aliases: ["loraplus-ratio"],
  },
  adapter: {
    type: "path",
    value: "DIR",
    help: "start from this PEFT adapter, keeping its rank, alpha, target modules and rsLoRA setting",
    identity: "derived",
    aliases: ["adapter-name-or-path", "lora-model-dir"],
  },
});
