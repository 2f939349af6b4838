// LoRA (arXiv 2106.09685) as PEFT has it: y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with A [r, in], B [out, r].

import { UsageError } from "../errors.ts";
import type { Device } from "../native/index.ts";
import {
  type GroupName,
  groupModules,
  groupNames,
  type LinearModule,
  layerOf,
  linearModules,
  modulePath,
  type TensorSpec,
} from "./architecture.ts";
import type { LlamaConfig } from "./config.ts";

/** What is trained: nothing, LoRA adapters, everything. */
export type Tune = "none" | "lora" | "full";

export interface LoraOptions {
  r: number;
  alpha: number;
  dropout: number;
  targetModules: LinearModule[];
  useRslora: boolean;
  /** Those of each layer, where only some layers have them; absent: `targetModules` in every layer. */
  layerModules?: LinearModule[][];
}

/** The adapted modules by name or, where only some layers have them, by path: what PEFT takes as target_modules. */
export function targetNames({ targetModules, layerModules }: LoraOptions): string[] {
  if (layerModules === undefined) return targetModules;
  return layerModules.flatMap((modules, layer) => modules.map((module) => modulePath(layer, module)));
}

/** The options for adapters on these linears of each layer. */
export function loraOnLayers(
  options: Omit<LoraOptions, "targetModules" | "layerModules">,
  layers: LinearModule[][],
): LoraOptions {
  const targetModules = linearModules.filter((module) => layers.some((modules) => modules.includes(module)));
  const isEverywhere = layers.every((modules) => modules.length === targetModules.length);
  return { ...options, targetModules, ...(isEverywhere ? {} : { layerModules: layers }) };
}

/** s = alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv 2312.03732). */
export function loraScale(options: LoraOptions): number {
  return options.alpha / (options.useRslora ? Math.sqrt(options.r) : options.r);
}

/** A GPU lays ranks out to multiples of this. */
export const LORA_VECTOR = 8;

/**
 * Columns of u, g and B, and rows of A, that each target takes on the device. A GPU's bf16 kernels move eight values at a
 * time; what is beyond r starts at zero and has gradients of zero, so it stays there.
 */
export function laidRank(device: Pick<Device, "isHost">, { r }: LoraOptions, dtype: "f32" | "bf16"): number {
  return device.isHost || dtype === "f32" ? r : Math.ceil(r / LORA_VECTOR) * LORA_VECTOR;
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
      throw new UsageError(`--target-modules: ${module} is not one of ${linearModules.join(", ")}`);
    }
  }
}

/**
 * The modules of each LoRA stack of a group: all together, or, with dropout, each alone. Of one layer, or the most that
 * any layer has.
 */
export function stackModules(
  group: GroupName,
  lora: LoraOptions | null,
  layer: number | null,
): LinearModule[][] {
  if (lora === null) return [];
  const adapted = (layer === null ? undefined : lora.layerModules?.[layer]) ?? lora.targetModules;
  const targets = groupModules[group].filter((module) => adapted.includes(module));
  if (targets.length === 0) return [];
  return lora.dropout > 0 ? targets.map((module) => [module]) : [targets];
}

/** A tensor and its shape on the device. */
type LoraSpec = TensorSpec & { laid: number[] };

/**
 * Every LoRA parameter, layer by layer; A of one group side by side, so that they stack into one product. `rank`: of their
 * shape on the device.
 */
export function loraParameterSpecs(config: LlamaConfig, lora: LoraOptions, rank = lora.r): LoraSpec[] {
  return Array.from({ length: config.numHiddenLayers }, (_, layer) => {
    const { linears } = layerOf(config, layer);
    return groupNames.flatMap((group) => {
      const adapted = stackModules(group, lora, layer)
        .flat()
        .map((module) => linears[module]);
      return [
        ...adapted.map((linear) => ({
          name: loraA(linear.path),
          shape: [lora.r, linear.in],
          laid: [rank, linear.in],
        })),
        ...adapted.map((linear) => ({
          name: loraB(linear.path),
          shape: [linear.out, lora.r],
          laid: [linear.out, rank],
        })),
      ];
    });
  }).flat();
}

/** Names of a linear's A and B by its path. */
export const loraA = (path: string) => `${path}.lora_A.weight`;
export const loraB = (path: string) => `${path}.lora_B.weight`;

/** Paths of the adapted linears, layer by layer. */
export const targetPaths = (config: LlamaConfig, { targetModules, layerModules }: LoraOptions): string[] =>
  Array.from({ length: config.numHiddenLayers }, (_, layer) =>
    (layerModules?.[layer] ?? targetModules).map((module) => modulePath(layer, module)),
  ).flat();
