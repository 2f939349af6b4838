// LoRA folded into the products of a group's weights. Behind the columns of x lie those of u = s·x·Aᵀ, behind those of
// dy those of g = s·dy·B, and the weights of the group lie in one matrix with A and B:
//
//   [ W  B ]     y = [x u]·[W B]ᵀ     dx = [dy g]·[W; A]
//   [ A    ]
//
// The lower right is not read. So a product sums W's term and LoRA's in float32 and writes y once; with LoRA's term made
// first, y would be written, read and written again. B is block-diagonal where the group has several linears. Folding pays
// where two passes over y cost more than multiplying the added columns, as on every GPU; a CPU has its results in registers
// when it adds. Weights in NF4 are expanded into one matrix for all groups, and A or B beside them, before each product.
//
// With dropout each linear has columns of u made of an x of its own, and y still is one product. dx is not: each linear's
// g·A is masked before it is added. So its product has W alone, and the matrix no A.

import {
  blockWords,
  type CopiedBlock,
  copyBlocks,
  type Device,
  type Nf4,
  nf4Dequantize,
  type Tensor,
  Weight,
} from "../native/index.ts";
import { type GroupName, groupModules, groupNames, layerOf } from "./architecture.ts";
import type { LlamaConfig } from "./config.ts";
import type { FoldedColumns, FoldedProducts, LoraStack, LoraTarget } from "./linear-group.ts";
import { type LoraOptions, laidRank, stackModules, type Tune } from "./lora.ts";

/** A product's sums go over multiples of this: what GPUs' products take at a time, and lines of 128 bytes in bf16. */
const SUM_STEP = 64;

/**
 * Columns of u beyond which a group is not folded: each of its linears is multiplied with all of them, zeros of the
 * others' too. At the rates of build/cards.ts it pays up to 325 on an A100, 520 on an H100.
 */
const MOST_COLUMNS = 384;

/** By group. */
export type Fold = Readonly<Record<GroupName, FoldedColumns>>;

/** What decides whether a model is folded. */
interface FoldRequest {
  dtype: "f32" | "bf16";
  tune: Tune;
  lora: LoraOptions | null;
  training: boolean;
  /** Frozen weights of another model; only whether there are any counts. Null or absent: this one has its own. */
  shared?: object | null;
}

const targetCount = (group: GroupName, lora: LoraOptions, layer: number | null) =>
  stackModules(group, lora, layer).flat().length;

/** How a model may be folded; null: none of it is. */
export function foldOf(
  device: Pick<Device, "isHost">,
  config: LlamaConfig,
  { dtype, tune, lora, training, shared }: FoldRequest,
): Fold | null {
  if (device.isHost || !training || tune !== "lora" || lora === null || shared != null) return null;
  const rank = laidRank(device, lora, dtype);
  const { linears } = layerOf(config, 0);
  const columns = groupNames.map((name) => {
    const R = targetCount(name, lora, null) * rank;
    const modules = groupModules[name].map((module) => linears[module]);
    const out = modules.reduce((sum, linear) => sum + linear.out, 0);
    const isFolded = R > 0 && R <= MOST_COLUMNS;
    const behind = (width: number) => (isFolded ? Math.ceil((width + R) / SUM_STEP) * SUM_STEP - width : 0);
    return { name, u: behind(modules[0]!.in), g: lora.dropout > 0 ? 0 : behind(out) };
  });
  if (columns.every(({ u }) => u === 0)) return null;
  return Object.fromEntries(columns.map(({ name, u, g }) => [name, { u, g }])) as Fold;
}

/** A group to be folded, unless only some of its weights are in NF4. */
export interface FoldedGroup extends FoldedColumns {
  /** How many weights it has. */
  weights: number;
}

/**
 * The groups to be folded, by the name of each one's first weight. A group is folded in layers with as many targets as any:
 * columns of a buffer that no u or g is written to must stay zero.
 */
export function foldedGroups(config: LlamaConfig, lora: LoraOptions, fold: Fold): Map<string, FoldedGroup> {
  const groups = new Map<string, FoldedGroup>();
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const { linears } = layerOf(config, layer);
    for (const name of groupNames) {
      const count = targetCount(name, lora, layer);
      if (fold[name].u === 0 || count !== targetCount(name, lora, null)) continue;
      const [first] = groupModules[name];
      groups.set(`${linears[first!].path}.weight`, { ...fold[name], weights: groupModules[name].length });
    }
  }
  return groups;
}

/** Elements of the largest matrix [W B; A ·] of any folded group, and of the largest part beside W, B's or A's. */
export function foldedSizes(config: LlamaConfig, fold: Fold): { matrix: number; part: number } {
  const { linears } = layerOf(config, 0);
  const folded = groupNames.filter((name) => fold[name].u > 0);
  const sizes = folded.map((name) => {
    const modules = groupModules[name].map((module) => linears[module]);
    const [out, inputs] = [modules.reduce((sum, linear) => sum + linear.out, 0), modules[0]!.in];
    const { u, g } = fold[name];
    return { matrix: (out + g) * (inputs + u), part: Math.max(out * u, g * inputs) };
  });
  return {
    matrix: Math.max(...sizes.map(({ matrix }) => matrix)),
    part: Math.max(...sizes.map(({ part }) => part)),
  };
}

/** Of a group whose matrix is `whole` [out + g, in + u]. */
export function foldedProducts(
  device: Device,
  whole: Tensor,
  columns: FoldedColumns,
  bias: Tensor | null,
  expand: FoldedProducts["expand"],
): FoldedProducts {
  return {
    ...columns,
    ...{ bias, expand },
    forward: Weight.dense(device, whole.rows(0, whole.rowCount - columns.g)),
    backward: Weight.dense(device, whole.columns(0, whole.columnCount - columns.u)),
  };
}

/** Where B of a folded group goes in its matrix, and A where its matrix has it. */
export function adapterBlocks(
  whole: Tensor,
  { u, g }: FoldedColumns,
  stacks: readonly LoraStack[],
): Record<"a" | "b", CopiedBlock[]> {
  const [out, inputs] = [whole.rowCount - g, whole.columnCount - u];
  const below = g === 0 ? [] : stacks;
  return {
    a: below.map(({ a, column }) => ({
      destination: whole.rows(out + column, a.rowCount).columns(0, inputs),
      source: a,
    })),
    b: targetsOf(stacks).map(({ linear, b, column }) => ({
      destination: whole.rows(linear.column, linear.out).columns(inputs + column, b.columnCount),
      source: b,
    })),
  };
}

/** Targets of all stacks, by their columns of the group's u. */
const targetsOf = (stacks: readonly LoraStack[]): LoraTarget[] =>
  stacks.flatMap(({ column, targets }) =>
    targets.map((target) => ({ ...target, column: column + target.column })),
  );

/** A weight of a group in NF4, and its first row. */
export interface ExpandedWeight {
  nf4: Nf4;
  row: number;
}

/**
 * What makes [W B] or [W; A] of a group with weights in NF4 anew in `whole`, in all of their columns and rows; in place of
 * [W; A] W alone, where A is not in the matrix. `zeros`: as many as the larger part beside W.
 */
export function expander(
  device: Device,
  whole: Tensor,
  columns: FoldedColumns,
  weights: readonly ExpandedWeight[],
  stacks: readonly LoraStack[],
  zeros: Tensor,
): NonNullable<FoldedProducts["expand"]> {
  const { u, g } = columns;
  const [out, inputs] = [whole.rowCount - g, whole.columnCount - u];
  const { a, b } = adapterBlocks(whole, columns, stacks);
  const below = a.reduce((sum, { source }) => sum + source.rowCount, 0);
  const clear = (destination: Tensor): CopiedBlock[] =>
    destination.size === 0 ? [] : [{ destination, source: zeros.reshapeTo(destination.shape) }];
  const right = whole.rows(0, out).columns(inputs, u);
  const behind = weights.flatMap(({ nf4, row }) => {
    const rows = right.rows(row, nf4.shape[0]!);
    const target = targetsOf(stacks).find(({ linear }) => linear.column === row);
    if (target === undefined) return clear(rows);
    const end = target.column + target.b.columnCount;
    return [...clear(rows.columns(0, target.column)), ...clear(rows.columns(end, u - end))];
  });
  const words = {
    forward: blockWords([...b, ...behind]),
    backward: blockWords([...a, ...clear(whole.rows(out + below, g - below).columns(0, inputs))]),
  };
  return (direction) => {
    for (const { nf4, row } of weights)
      nf4Dequantize(device, whole.rows(row, nf4.shape[0]!).columns(0, inputs), nf4);
    if (words[direction].length > 0) copyBlocks(device, words[direction]);
  };
}
