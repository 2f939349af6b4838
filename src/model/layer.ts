// One layer of a Llama, forward and backward as explicit calls, op by op. T: tokens of a micro-batch (samples end to
// end), H: hidden size, I: intermediate size. Formulas of the ops: kernels/neftune.h.

import type { Batch } from "../data/batch.ts";
import {
  type AttentionShape,
  attentionBackward,
  type Device,
  type EmbeddingNoise,
  type ProductRows,
  type RopeTables,
  rmsnormRopeBackward,
  rmsnormRopeForward,
  rope,
  swigluBackward,
  swigluBackwardLora,
  swigluForward,
  type Tensor,
} from "../native/index.ts";
import { type Activations, type Kept, keeps, type LayerActivations } from "./activations.ts";
import { type GroupName, widthsOf } from "./architecture.ts";
import type { LlamaConfig } from "./config.ts";
import {
  type DropoutContext,
  type GroupScratch,
  groupBackwardInput,
  groupBackwardWeight,
  groupForward,
  hasTrained,
  onlyLoraA,
} from "./linear-group.ts";
import { addNormForward, type Norm, normBackward, normForward } from "./norm.ts";
import type { LayerBucketName } from "./shard-layout.ts";
import type { LayerWeights } from "./weights.ts";

/** What attention does in a layer: over packed samples, or over a key/value cache (generate.ts). */
export type Attend = (layer: number, activations: LayerActivations) => void;

/** Does `work`, which makes the gradients of a part of a layer; where ranks divide gradients, each then takes its share. */
export type Collect = (layer: number, bucket: LayerBucketName, work: () => void) => void;

/** What one micro-batch goes through the layers with. */
export interface Pass {
  batch: Batch;
  /** Views of T rows. */
  buffers: Activations;
  attend: Attend;
  dropout: DropoutContext | null;
  noise: EmbeddingNoise | null;
  rows: ProductRows;
}

/** What all layers share. */
export interface LayerContext {
  device: Device;
  config: LlamaConfig;
  rope: RopeTables; // f32 [positions, headDim / 2]
  scratch: GroupScratch;
  /** Of the forward pass, for the backward pass. */
  kept: Kept;
  collect: Collect;
}

/** Columns of qkv with the norm of their heads. */
interface NormedHeads {
  norm: Norm;
  begin: number;
  width: number;
}

export class Layer {
  readonly weights: LayerWeights;
  readonly attention: AttentionShape;
  readonly #index: number;
  readonly #context: LayerContext;
  readonly #rotated: number; // columns of q and k
  readonly #normedHeads: readonly NormedHeads[] | null;

  constructor(index: number, weights: LayerWeights, attention: AttentionShape, context: LayerContext) {
    const { queries, keys } = widthsOf(context.config);
    const { headNorms } = weights;
    this.weights = weights;
    this.attention = attention;
    this.#index = index;
    this.#context = context;
    this.#rotated = queries + keys;
    this.#normedHeads = headNorms && [
      { norm: headNorms.q, begin: 0, width: queries },
      { norm: headNorms.k, begin: queries, width: keys },
    ];
  }

  /** From the first norm's output to what the layer adds to the residual stream, in branch: the next norm adds it. */
  forward(a: LayerActivations, pass: Pass): void {
    const { h, branch } = pass.buffers; // [T, I], [T, H]
    this.#toGateUp(a, pass);
    swigluForward(this.#context.device, h, a.gateUp);
    this.#linear("down", branch, h, a, pass);
  }

  /** From the first norm's output to gate and up. Also how a layer is recomputed. */
  #toGateUp(a: LayerActivations, pass: Pass): void {
    const { branch } = pass.buffers; // [T, H]
    this.#linear("qkv", a.qkv, a.norm1.normed, a, pass);
    this.#rotate(a, pass);
    pass.attend(this.#index, a);
    this.#linear("o", branch, a.attention, a, pass);
    addNormForward(this.#context.device, this.weights.norm2, a.norm2, a.norm1.x, branch);
    this.#linear("gateUp", a.gateUp, a.norm2.normed, a, pass);
  }

  #linear(name: GroupName, y: Tensor, x: Tensor, { u }: LayerActivations, pass: Pass): void {
    const { device, scratch } = this.#context;
    const { dropout, rows } = pass;
    groupForward(device, this.weights.groups[name], y, x, u[name], scratch, dropout, rows);
  }

  /** RoPE on the q and k columns, in place; before it, where the model has them, the norms of their heads. */
  #rotate({ qkv, unnormed }: LayerActivations, { buffers: { positions } }: Pass): void {
    const { device, config, rope: tables } = this.#context;
    if (this.#normedHeads === null)
      rope(device, qkv.columns(0, this.#rotated), tables, positions, config.headDim);
    for (const { norm, begin, width } of this.#normedHeads ?? []) {
      const kept = unnormed?.columns(begin, width) ?? null;
      rmsnormRopeForward(device, qkv.columns(begin, width), kept, norm, tables, positions);
    }
  }

  /** From the gradient of attention's output to that of what #rotate was given. */
  #attentionBackward(a: LayerActivations, { batch, buffers }: Pass): void {
    const { device, rope: tables } = this.#context;
    const { positions } = buffers;
    const { dattention, dqkv, delta } = buffers.backward!;
    const { qkv, unnormed, attention, lse } = a;
    const turned = this.#normedHeads === null ? { tables, positions } : null;
    attentionBackward(device, dqkv, delta, dattention, attention, qkv, lse, batch, this.attention, turned);
    for (const { norm, begin, width } of this.#normedHeads ?? []) {
      const [dx, x] = [dqkv.columns(begin, width), unnormed!.columns(begin, width)];
      rmsnormRopeBackward(device, dx, norm.dweight, x, norm, tables, positions);
    }
  }

  /** Makes again what the forward pass did not keep for gate and up. */
  #recompute(a: LayerActivations, pass: Pass): void {
    const { device, kept } = this.#context;
    const { norm1, norm2, groups } = this.weights;
    if (!keeps(kept, "attention")) {
      normForward(device, norm1, a.norm1);
      this.#toGateUp(a, pass);
      return;
    }
    const isGateUpKept = keeps(kept, "gateUp");
    if (!keeps(kept, "norms") && (hasTrained(groups.gateUp) || !isGateUpKept))
      normForward(device, norm2, a.norm2);
    if (!isGateUpKept) this.#linear("gateUp", a.gateUp, a.norm2.normed, a, pass);
  }

  /** Turns dx from the gradient of the layer's output into that of its input; `isLast`: nothing below is trained. */
  backward(a: LayerActivations, pass: Pass, isLast: boolean): void {
    const { collect } = this.#context;
    this.#recompute(a, pass);
    collect(this.#index, "mlp", () => this.#backwardMlp(a, pass));
    collect(this.#index, "attention", () => this.#backwardAttention(a, pass, isLast));
  }

  #backwardInput(
    name: GroupName,
    dx: Tensor | null,
    dy: Tensor,
    { u }: LayerActivations,
    { dropout }: Pass,
  ): Tensor[] {
    const { device, scratch } = this.#context;
    return groupBackwardInput(device, this.weights.groups[name], dx, dy, u[name], scratch, dropout);
  }

  #backwardWeight(name: GroupName, dy: Tensor, x: Tensor, g: readonly Tensor[], { dropout }: Pass): void {
    const { device, scratch } = this.#context;
    groupBackwardWeight(device, this.weights.groups[name], dy, x, g, scratch, dropout);
  }

  /** x + down(silu(gate) · up) */
  #backwardMlp(a: LayerActivations, pass: Pass): void {
    const { device } = this.#context;
    const { h } = pass.buffers; // [T, I]
    const { dx, dnormed } = pass.buffers.backward!;
    const { gateUp, norm2 } = a;
    let g = this.#backwardInput("down", h, dx, a, pass); // h holds dh
    const { down } = this.weights.groups;
    const da = onlyLoraA(down, pass.dropout);
    if (da !== null) {
      swigluBackwardLora(device, gateUp, da, g[0]!, h); // gateUp holds its gradient
    } else {
      swigluBackward(device, gateUp, hasTrained(down) ? h : null, h); // h holds SwiGLU's output again
      this.#backwardWeight("down", dx, h, g, pass);
    }
    g = this.#backwardInput("gateUp", dnormed, gateUp, a, pass);
    this.#backwardWeight("gateUp", gateUp, norm2.normed, g, pass);
    normBackward(device, this.weights.norm2, dx, dnormed, norm2, dx);
  }

  /** x + o(attention(rope(q), rope(k), v)) */
  #backwardAttention(a: LayerActivations, pass: Pass, isLast: boolean): void {
    const { device, kept } = this.#context;
    const { dx, dnormed, dattention, dqkv } = pass.buffers.backward!;
    const { norm1 } = a;
    const { weights } = this;
    let g = this.#backwardInput("o", dattention, dx, a, pass);
    this.#backwardWeight("o", dx, a.attention, g, pass);
    this.#attentionBackward(a, pass);
    if (hasTrained(weights.groups.qkv) && !keeps(kept, "norms")) normForward(device, weights.norm1, norm1);
    g = this.#backwardInput("qkv", isLast ? null : dnormed, dqkv, a, pass);
    this.#backwardWeight("qkv", dqkv, norm1.normed, g, pass);
    if (!isLast) normBackward(device, weights.norm1, dx, dnormed, norm1, dx);
  }
}
