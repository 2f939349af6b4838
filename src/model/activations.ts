// The buffers of forward and backward, sized for the largest micro-batch. What a layer keeps for its backward pass
// is a rung of a ladder; what need not be kept is one buffer for all layers.

import type { Allocator, DType, Tensor } from "../native/index.ts";
import { type GroupName, groupNames, type LinearModule, widthsOf } from "./architecture.ts";
import type { LlamaConfig } from "./config.ts";
import type { Fold } from "./fold.ts";
import { kinds } from "./kinds.ts";
import { type LoraOptions, stackModules } from "./lora.ts";

/** What a layer may keep for its backward pass: each rung is all of those before it, and more. */
const rungs = [
  /** Its input. */
  "input",
  /** q, k, v, attention's output and the residual stream after it. */
  "attention",
  "gateUp",
  /** The outputs of its norms. */
  "norms",
] as const;
export type Kept = (typeof rungs)[number];

export const keeps = (kept: Kept, rung: Kept): boolean => rungs.indexOf(kept) >= rungs.indexOf(rung);

/** What the option --recompute keeps: with `none` only norms and SwiGLU are made again. */
export const keptWith = { none: "gateUp", mlp: "attention", layer: "input" } as const;
export type Recompute = keyof typeof keptWith;

/** A norm's input and output. */
export interface NormActivations {
  x: Tensor; // [T, H] the residual stream where the norm reads it
  rstd: Tensor; // f32 [T]
  normed: Tensor; // [T, H] one buffer for all layers unless norms are kept
}

export interface LayerActivations {
  norm1: NormActivations; // of the layer's input, for q, k and v
  qkv: Tensor; // [T, queries + 2·keys], rotated
  unnormed: Tensor | null; // [T, queries + keys], q and k before the norms of their heads; null: no such norms
  attention: Tensor; // [T, queries]
  lse: Tensor; // f32 [heads, T]
  norm2: NormActivations; // of the residual stream after attention, for gate and up
  gateUp: Tensor; // [T, 2·I]; its own gradient after the backward pass of SwiGLU
  u: Record<GroupName, Tensor[]>; // [T, R] for each LoRA stack
}

export interface Activations {
  ids: Tensor; // i32 [T]
  positions: Tensor; // i32 [T]
  /** One a layer, or a single one for all when nothing is trained. */
  layers: LayerActivations[];
  norm: NormActivations; // of the residual stream after the last layer, for the head
  branch: Tensor; // [T, H] what attention or MLP adds to the residual stream
  h: Tensor; // [T, I] SwiGLU's output, and its gradient
  losses: Tensor; // f32 [targets]
  workspace: Tensor; // f32, for the fused linear + cross-entropy
  /** Null when nothing is trained. */
  backward: BackwardBuffers | null;
  dropped: Tensor | null; // [T, widest linear input], with LoRA dropout
  /** Whole buffers with columns for u and g of folded groups. They start as zeros: products read all of the columns. */
  widened: Tensor[];
}

export interface BackwardBuffers {
  dx: Tensor; // [T, H] gradient of the residual stream
  dnormed: Tensor; // [T, H]
  dattention: Tensor; // [T, queries]
  dqkv: Tensor; // [T, queries + 2·keys]
  delta: Tensor; // f32 [heads, T]
  g: Tensor[]; // [T, R] by stack position
}

export interface ActivationRequest {
  dtype: "f32" | "bf16";
  lora: LoraOptions | null;
  /** Keeps what the backward pass needs. */
  training: boolean;
  maxTokens: number;
  maxTargets: number;
  workspaceBytes: number;
  /** Columns of u and g that each target takes. */
  rank: number;
  /** Columns for them behind the groups' inputs and outputs; null: none. */
  fold: Fold | null;
}

/** Lays all buffers out. */
export function allocateActivations(
  allocator: Allocator,
  config: LlamaConfig,
  { dtype, lora, training, maxTokens: T, maxTargets, workspaceBytes, rank, fold }: ActivationRequest,
  kept: Kept,
): Activations {
  const { hidden, intermediate, queries, keys } = widthsOf(config);
  const heads = config.numAttentionHeads;
  const buffer = (columns: number) => allocator.allocate("activations", dtype, [T, columns]);
  const widened: Tensor[] = [];
  /** With room for the u of groups that read it, and the g of groups that give it. */
  const wide = (columns: number, inputOf: GroupName[], outputOf: GroupName[] = []) => {
    const behind = [...inputOf.map((group) => fold?.[group].u), ...outputOf.map((group) => fold?.[group].g)];
    const whole = buffer(columns + Math.max(...behind.map((more) => more ?? 0)));
    if (whole.columnCount > columns) widened.push(whole);
    return whole.columns(0, columns);
  };
  const vector = (type: DType, size: number) => allocator.allocate("activations", type, [size]);
  const rankOf = (modules: LinearModule[]) => modules.length * rank;
  // As many columns in every layer: evaluation runs all layers over the first one's buffers.
  const lowRank = (group: GroupName) =>
    stackModules(group, lora, null).map((modules) => buffer(rankOf(modules)));
  const attentionPart = () => ({
    rstd1: vector("f32", T),
    qkv: buffer(queries + 2 * keys),
    unnormed: training && kinds[config.modelType].headNorms ? buffer(queries + keys) : null,
    attention: wide(queries, ["o"]),
    lse: vector("f32", heads * T),
    mid: buffer(hidden),
    rstd2: vector("f32", T),
    u: { qkv: lowRank("qkv"), o: lowRank("o"), gateUp: lowRank("gateUp") },
  });
  const count = training ? config.numHiddenLayers : 1;
  const isKept = (rung: Kept) => training && keeps(kept, rung);
  const sharedAttention = isKept("attention") ? null : attentionPart();
  const normedFor = (group: GroupName) => wide(hidden, [group]);
  // A buffer is of one group: what it does not write of u's columns stays zero.
  const normed1 = normedFor("qkv");
  const normed2 = fold === null ? normed1 : normedFor("gateUp");
  const ownNorms = isKept("norms");
  const gateUp = () => wide(2 * intermediate, [], ["gateUp"]);
  const sharedGateUp = isKept("gateUp") ? null : gateUp();
  const layers = Array.from({ length: count }, () => {
    const { rstd1, mid, rstd2, u, ...part } = sharedAttention ?? attentionPart();
    return {
      ...part,
      norm1: { x: buffer(hidden), rstd: rstd1, normed: ownNorms ? normedFor("qkv") : normed1 },
      norm2: { x: mid, rstd: rstd2, normed: ownNorms ? normedFor("gateUp") : normed2 },
      gateUp: sharedGateUp ?? gateUp(),
      // The down projection is never run again, so its u is kept whatever is recomputed.
      u: { ...u, down: lowRank("down") },
    };
  });
  const widest = Math.max(hidden, intermediate, queries);
  const stacks = groupNames.map((group) => stackModules(group, lora, null).map(rankOf));
  const gWidths = [0, 1, 2].map((i) => Math.max(0, ...stacks.map((widths) => widths[i] ?? 0)));
  const backward = (): BackwardBuffers => ({
    dx: wide(hidden, [], ["o", "down"]),
    dnormed: buffer(hidden),
    dattention: wide(queries, ["o"]), // its rows lie as attention's do
    dqkv: wide(queries + 2 * keys, [], ["qkv"]),
    delta: vector("f32", heads * T),
    g: gWidths.filter((width) => width > 0).map(buffer),
  });
  return {
    ids: vector("i32", T),
    positions: vector("i32", T),
    layers,
    // The head takes no wider rows.
    norm: { x: buffer(hidden), rstd: vector("f32", T), normed: fold === null ? normed1 : buffer(hidden) },
    branch: buffer(hidden),
    h: wide(intermediate, ["down"]),
    losses: vector("f32", maxTargets),
    workspace: allocator.allocate("workspace", "f32", [Math.ceil(workspaceBytes / 4)]),
    backward: training ? backward() : null,
    dropped: training && (lora?.dropout ?? 0) > 0 ? buffer(widest) : null,
    widened,
  };
}

/** The buffers as a micro-batch of `T` tokens uses them: views of their first T rows. */
export function viewsOf(buffers: Activations, T: number): Activations {
  const rows = (tensor: Tensor) => tensor.rows(0, T);
  const perHead = (tensor: Tensor, heads: number) => tensor.reshapeTo([heads, T]);
  const all = (tensors: Tensor[]) => tensors.map(rows);
  const norm = ({ x, rstd, normed }: NormActivations) => ({
    x: rows(x),
    rstd: rows(rstd),
    normed: rows(normed),
  });
  const maxTokens = buffers.ids.size;
  const layers = buffers.layers.map((layer) => ({
    norm1: norm(layer.norm1),
    qkv: rows(layer.qkv),
    unnormed: layer.unnormed && rows(layer.unnormed),
    attention: rows(layer.attention),
    lse: perHead(layer.lse, layer.lse.size / maxTokens),
    norm2: norm(layer.norm2),
    gateUp: rows(layer.gateUp),
    u: {
      qkv: all(layer.u.qkv),
      o: all(layer.u.o),
      gateUp: all(layer.u.gateUp),
      down: all(layer.u.down),
    },
  }));
  const { backward } = buffers;
  return {
    ...buffers,
    ids: rows(buffers.ids),
    positions: rows(buffers.positions),
    layers,
    norm: norm(buffers.norm),
    branch: rows(buffers.branch),
    h: rows(buffers.h),
    backward: backward && {
      dx: rows(backward.dx),
      dnormed: rows(backward.dnormed),
      dattention: rows(backward.dattention),
      dqkv: rows(backward.dqkv),
      delta: perHead(backward.delta, backward.delta.size / maxTokens),
      g: backward.g,
    },
  };
}
