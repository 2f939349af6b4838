// LoRA folded into the products of a group's weights. Behind the columns of x lie those of u = s·x·Aᵀ, behind those of dy
// those of g = s·dy·B, and the weights of the group lie in one matrix with A and B:
//
//   [ W  B ]     y = [x u]·[W B]ᵀ     dx = [dy g]·[W; A]
//   [ A  0 ]
//
// So a product sums W's term and LoRA's in float32 and writes y once; with LoRA's term written before, y would be written,
// read and written again. B is block-diagonal where the group has several linears. It pays where a pass over y costs more
// than as many more columns to multiply, which it does on every GPU; a CPU has its results in registers when it adds.

import { type CopiedBlock, type Device, type Tensor, Weight } from "../native/index.ts";
import { type GroupName, groupModules, groupNames, layerOf } from "./architecture.ts";
import type { LlamaConfig } from "./config.ts";
import type { LoraStack } from "./linear-group.ts";
import { type LoraOptions, laidRank, stackModules } from "./lora.ts";
import type { ModelSource } from "./source.ts";
import type { WeightOptions } from "./weights.ts";

/** A product's sums go over multiples of this: what GPUs' products take at a time, and lines of 128 bytes in bf16. */
const SUM_STEP = 64;

/**
 * Columns of u beyond which a group is not folded: each of its linears is multiplied with all of them, zeros of the others'
 * too. By arithmetic (docs/performance.md) it pays up to 330 on an A100, 520 on an H100.
 */
const MOST_COLUMNS = 384;

/** Columns behind those of a group's input and output. */
export interface FoldedColumns {
  /** For u. */
  u: number;
  /** For g. */
  g: number;
}

/** By group, in every layer where it has adapters. */
export type Fold = Readonly<Record<GroupName, FoldedColumns>>;

/**
 * How a model is folded; null: it is not. With dropout each linear has a u of its own x, which no other's product may see;
 * a learned scale of noise reads the residual stream's gradient, and takes no wider rows.
 */
export function foldOf(
  device: Pick<Device, "isHost">,
  { config, isQuantized }: Pick<ModelSource, "config" | "isQuantized">,
  { dtype, tune, lora, training, quantization, learnedNoise, shared }: WeightOptions,
): Fold | null {
  if (device.isHost || !training || tune !== "lora" || lora === null || lora.dropout > 0) return null;
  if (isQuantized || quantization !== null || learnedNoise === true || shared != null) return null;
  const rank = laidRank(device, lora, dtype);
  const { linears } = layerOf(config, 0);
  const columns = groupNames.map((name) => {
    const R = stackModules(name, lora, null).flat().length * rank;
    const modules = groupModules[name].map((module) => linears[module]);
    const out = modules.reduce((sum, linear) => sum + linear.out, 0);
    const behind = (width: number) => (R === 0 ? 0 : Math.ceil((width + R) / SUM_STEP) * SUM_STEP - width);
    return { R, name, u: behind(modules[0]!.in), g: behind(out) };
  });
  if (columns.some(({ R }) => R > MOST_COLUMNS)) return null;
  return Object.fromEntries(columns.map(({ name, u, g }) => [name, { u, g }])) as Fold;
}

/** The names of the weights in folded groups, with their groups' columns. */
export function foldedWeights(
  config: LlamaConfig,
  lora: LoraOptions,
  fold: Fold,
): Map<string, FoldedColumns> {
  const weights = new Map<string, FoldedColumns>();
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const { linears } = layerOf(config, layer);
    for (const name of groupNames) {
      if (stackModules(name, lora, layer).length === 0) continue;
      for (const module of groupModules[name]) weights.set(`${linears[module].path}.weight`, fold[name]);
    }
  }
  return weights;
}

/** A group's products with LoRA in them, and the columns that they take of x and dy beyond the group's own. */
export interface FoldedProducts extends FoldedColumns {
  forward: Weight; // [out, in + u]
  backward: Weight; // [out + g, in]
}

/** Of a group whose matrix is `whole` [out + g, in + u]. */
export function foldedProducts(device: Device, whole: Tensor, columns: FoldedColumns): FoldedProducts {
  return {
    ...columns,
    forward: Weight.dense(device, whole.rows(0, whole.rowCount - columns.g)),
    backward: Weight.dense(device, whole.columns(0, whole.columnCount - columns.u)),
  };
}

/** Where A and B of a folded group go in its matrix. */
export function adapterBlocks(
  whole: Tensor,
  { u, g }: FoldedColumns,
  { a, targets }: LoraStack,
): CopiedBlock[] {
  const [out, inputs, R] = [whole.rowCount - g, whole.columnCount - u, a.rowCount];
  const right = whole.columns(inputs, R);
  return [
    { destination: whole.rows(out, R).columns(0, inputs), source: a },
    ...targets.map(({ linear, b, column }) => ({
      destination: right.rows(linear.column, linear.out).columns(column, b.columnCount),
      source: b,
    })),
  ];
}
