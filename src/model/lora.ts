// LoRA (arXiv 2106.09685) as PEFT has it: y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with A [r, in], B [out, r].

import { UsageError } from "../errors.ts";

/** The linears of a Llama layer that LoRA may adapt, in the layer's order. */
export const linearModules = [
  "q_proj",
  "k_proj",
  "v_proj",
  "o_proj",
  "gate_proj",
  "up_proj",
  "down_proj",
] as const;
export type LinearModule = (typeof linearModules)[number];

export interface LoraOptions {
  r: number;
  alpha: number;
  dropout: number;
  targetModules: LinearModule[];
  useRslora: boolean;
}

/** s = alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv 2312.03732). */
export function loraScale(options: LoraOptions): number {
  return options.alpha / (options.useRslora ? Math.sqrt(options.r) : options.r);
}

/** Throws a UsageError that names the option, unless the options make sense. */
export function checkLoraOptions(options: LoraOptions): void {
  if (!Number.isSafeInteger(options.r) || options.r < 1)
    throw new UsageError(`--lora-r must be a whole number above 0, got ${options.r}`);
  if (!(options.dropout >= 0 && options.dropout < 1)) {
    throw new UsageError(`--lora-dropout must be at least 0 and below 1, got ${options.dropout}`);
  }
  if (options.targetModules.length === 0) throw new UsageError("--target-modules names no module");
  for (const module of options.targetModules) {
    if (!linearModules.includes(module)) {
      throw new UsageError(`--target-modules: ${module} is none of ${linearModules.join(", ")}`);
    }
  }
}

/** Where a module's tensors are in a checkpoint: "model.layers.3.self_attn.q_proj". */
export function modulePath(layer: number, module: LinearModule): string {
  const block =
    module === "gate_proj" || module === "up_proj" || module === "down_proj" ? "mlp" : "self_attn";
  return `model.layers.${layer}.${block}.${module}`;
}
