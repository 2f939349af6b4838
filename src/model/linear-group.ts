// The linears that read the same input, as one unit: q, k, v; o; gate, up; down. Their outputs lie side by side in
// one buffer, and their LoRA down projections share one product. Forward and backward are explicit calls.

import {
  type Device,
  dropout,
  type LowRankBlocks,
  linearBackwardInput,
  linearBackwardWeight,
  linearForward,
  loraBackward,
  loraBackwardA,
  loraForward,
  type ProductRows,
  type SampleBorders,
  type Tensor,
  type Weight,
} from "../native/index.ts";

/** One linear of a group: where its output lies, and what is trained of it. */
export interface GroupLinear {
  /** First column of its output in the group's buffer. */
  column: number;
  out: number;
  /** Gradients of weight and bias in full fine-tuning; null: frozen. */
  dweight: Tensor | null; // f32 [out, in]
  dbias: Tensor | null; // f32 [out]
}

/**
 * One product: of all linears where their weights follow each other in memory, or on a CPU in a stack (as in NF4); else of
 * one, as where their biases lie apart, or with dropout, where each reads an x of its own.
 */
export interface GroupProduct {
  weight: Weight; // [out, in]
  bias: Tensor | null; // f32 [out]
  /** First column of its output in the group's buffer. */
  column: number;
}

/** Columns of a folded group (fold.ts) behind those of its input and output. */
export interface FoldedColumns {
  /** For u; 0: the group is not folded. */
  u: number;
  /** For g; 0: its term of dx is made apart. */
  g: number;
}

/** A group's products with LoRA in them, and the columns that they take of x and dy beyond the group's own. */
export interface FoldedProducts extends FoldedColumns {
  forward: Weight; // [out, in + u]
  backward: Weight; // [out + g, in]
  bias: Tensor | null; // f32 [out]
  /** Makes the weight of the next product, where groups share a matrix; null: this one has its own. */
  expand: ((direction: "forward" | "backward") => void) | null;
}

/** One projection's share of a LoRA stack. */
export interface LoraTarget {
  linear: GroupLinear;
  b: Tensor; // [out, r]
  db: Tensor; // f32 [out, r]
  /** First column of its r columns in u and g. */
  column: number;
}

/** Projections whose A are stacked into one product because they read the same x (with dropout: one each). */
export interface LoraStack {
  a: Tensor; // [R, in]
  da: Tensor; // f32 [R, in]
  /** First of its columns where u of all stacks lie side by side. */
  column: number;
  targets: LoraTarget[];
  /** Identifies the dropout mask. */
  module: number;
}

export interface LinearGroup {
  linears: GroupLinear[];
  products: GroupProduct[];
  /** Products with LoRA in them, used in their place; null: there are none. */
  folded: FoldedProducts | null;
  stacks: LoraStack[];
  loraScale: number;
  in: number;
  out: number;
}

/** Memory that groups of all layers share. */
export interface GroupScratch {
  g: Tensor[]; // for each stack position: [maxTokens, R]
  /** x after dropout, and its gradient; null without dropout. */
  dropped: Tensor | null; // [maxTokens, widest in]
}

/** What LoRA dropout needs of a micro-batch; null: no dropout. */
export interface DropoutContext {
  samples: SampleBorders;
  p: number;
  seed: number;
  draws: BigInt64Array;
}

/** Up to this many rows, a GPU multiplies with a weight in NF4 as it is stored (few_rows.h). */
const FEW_ROWS = 8;

/** A linear's columns in the group's buffer, and a product's. */
const outputOf = (buffer: Tensor, linear: GroupLinear) => buffer.columns(linear.column, linear.out);
const resultOf = (buffer: Tensor, { column, weight }: GroupProduct) => buffer.columns(column, weight.out);

/** A stack's u: a buffer that serves several layers may be wider. */
const lowRankOf = (u: Tensor, { a }: LoraStack) =>
  u.columnCount === a.rowCount ? u : u.reshapeTo([u.rowCount, a.rowCount]);

/** The LoRA blocks of a stack that fall into a product's rows; null: none. */
function blocksOf(product: GroupProduct, stack: LoraStack, u: Tensor): LowRankBlocks | null {
  const end = product.column + product.weight.out;
  const blocks = stack.targets
    .filter(({ linear }) => linear.column >= product.column && linear.column < end)
    .map(({ linear, b, column }) => ({ b, row: linear.column - product.column, column }));
  return blocks.length > 0 ? { u, blocks } : null;
}

/** The stack's input: x, or x after the stack's dropout, in scratch. */
function stackInput(
  device: Device,
  group: LinearGroup,
  stack: LoraStack,
  x: Tensor,
  scratch: GroupScratch,
  context: DropoutContext | null,
): Tensor {
  if (context === null || scratch.dropped === null) return x;
  const dropped = scratch.dropped.reshapeTo([x.rowCount, group.in]);
  dropout(device, dropped, x, context.samples, { ...context, module: stack.module });
  return dropped;
}

/**
 * y[T, out] = x[T, in]·Wᵀ + bias + u·Bᵀ for every linear; u[i] (kept for backward) = s · x·Aᵀ of stack i. Where the group is
 * folded, u is left behind x's columns, too.
 */
export function groupForward(
  device: Device,
  group: LinearGroup,
  y: Tensor,
  x: Tensor,
  u: readonly Tensor[],
  scratch: GroupScratch,
  context: DropoutContext | null,
  rows: ProductRows,
): void {
  const isFew = rows === "each" || (rows === "together" && x.rowCount <= FEW_ROWS);
  const folded = group.folded?.expand != null && isFew ? null : group.folded;
  const wide = x.widened(folded?.u ?? 0);
  for (const [i, stack] of group.stacks.entries()) {
    const input = stackInput(device, group, stack, x, scratch, context);
    const behind = folded && wide.columns(group.in + stack.column, stack.a.rowCount);
    loraForward(device, lowRankOf(u[i]!, stack), input, stack.a, group.loraScale, behind, rows);
  }
  if (folded !== null) {
    folded.expand?.("forward");
    linearForward(device, y, wide, folded.forward, folded.bias, null, rows);
    return;
  }
  for (const product of group.products) {
    // Where there are several stacks, each product is one linear, which is in one of them at most; one stack may be
    // spread over several products.
    const lowRank = group.stacks.map((stack, i) => blocksOf(product, stack, lowRankOf(u[i]!, stack)));
    const lora = lowRank.find((blocks) => blocks !== null) ?? null;
    linearForward(device, resultOf(y, product), x, product.weight, product.bias, lora, rows);
  }
}

/**
 * First half of the backward pass: dx[T, in] from dy[T, out] (null: not wanted), and the gradients of B.
 * Returns g of each stack, which groupBackwardWeight needs: where A is in the folded product, behind dy's columns.
 */
export function groupBackwardInput(
  device: Device,
  group: LinearGroup,
  dx: Tensor | null,
  dy: Tensor,
  u: readonly Tensor[],
  scratch: GroupScratch,
  context: DropoutContext | null,
): Tensor[] {
  const T = dy.rowCount;
  const { folded } = group;
  const wide = dy.widened(folded?.g ?? 0);
  const g = group.stacks.map((stack, i) => {
    const R = stack.a.rowCount;
    const isBehind = (folded?.g ?? 0) > 0;
    const all = isBehind ? wide.columns(group.out + stack.column, R) : scratch.g[i]!.reshapeTo([T, R]);
    const kept = lowRankOf(u[i]!, stack);
    const targets = stack.targets.map(({ linear, b, db, column }) => ({ b, db, row: linear.column, column }));
    loraBackward(device, all, dy, kept, targets, group.loraScale);
    return all;
  });
  if (dx === null) return g;
  if (folded !== null) {
    folded.expand?.("backward");
    linearBackwardInput(device, dx, wide, folded.backward);
  } else {
    const stack = group.stacks[0];
    const shared = context === null && stack !== undefined ? { left: g[0]!, right: stack.a } : null;
    for (const [i, product] of group.products.entries()) {
      linearBackwardInput(device, dx, resultOf(dy, product), product.weight, i === 0 ? shared : null, i > 0);
    }
  }
  if (context !== null && scratch.dropped !== null) {
    const back = scratch.dropped.reshapeTo([T, group.in]);
    for (const [i, { a, module }] of group.stacks.entries()) {
      loraBackward(device, back, g[i]!, null, [{ b: a, db: null, row: 0, column: 0 }], 1); // back = g·A
      dropout(device, dx, back, context.samples, { ...context, module }, true);
    }
  }
  return g;
}

/** Second half: gradients of A, weights and biases (added), from dy[T, out], the group's input x[T, in] and g. */
export function groupBackwardWeight(
  device: Device,
  group: LinearGroup,
  dy: Tensor,
  x: Tensor,
  g: readonly Tensor[],
  scratch: GroupScratch,
  context: DropoutContext | null,
): void {
  for (const linear of group.linears) {
    if (linear.dweight !== null)
      linearBackwardWeight(device, linear.dweight, linear.dbias, outputOf(dy, linear), x);
  }
  for (const [i, stack] of group.stacks.entries()) {
    loraBackwardA(device, stack.da, g[i]!, stackInput(device, group, stack, x, scratch, context));
  }
}

/** Whether groupBackwardWeight has anything to do. */
export const hasTrained = (group: LinearGroup) =>
  group.stacks.length > 0 || group.linears.some((linear) => linear.dweight !== null);

/** The gradient of A where the second half is nothing else and takes the group's input as it is; else null. */
export function onlyLoraA({ linears, stacks }: LinearGroup, context: DropoutContext | null): Tensor | null {
  const [stack] = stacks;
  const isOnly = context === null && stacks.length === 1 && linears.every(({ dweight }) => dweight === null);
  return isOnly ? stack!.da : null;
}
