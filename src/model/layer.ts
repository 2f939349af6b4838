// One layer of a Llama, forward and backward as explicit calls, op by op. T: tokens of a micro-batch (samples end to
// end), H: hidden size, I: intermediate size. Formulas of the ops: kernels/neftune.h.

import type { Batch } from "../data/batch.ts";
import {
  type AttentionShape,
  attentionBackward,
  type Device,
  type EmbeddingNoise,
  type RopeTables,
  rmsnormRopeBackward,
  rmsnormRopeForward,
  rope,
  swigluBackward,
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
  type LinearGroup,
} from "./linear-group.ts";
import { addNormForward, type Norm, normBackward, normForward } from "./norm.ts";
import type { LayerWeights } from "./weights.ts";

/** What attention does in a layer: over packed samples, or over a key/value cache (generate.ts). */
export type Attend = (layer: number, activations: LayerActivations) => void;

/** What one micro-batch goes through the layers with. */
export interface Pass {
  batch: Batch;
  /** Views of T rows. */
  buffers: Activations;
  attend: Attend;
  dropout: DropoutContext | null;
  noise: EmbeddingNoise | null;
}

/** What all layers share. */
export interface LayerContext {
  device: Device;
  config: LlamaConfig;
  rope: RopeTables; // f32 [positions, headDim / 2]
  scratch: GroupScratch;
  /** Of the forward pass, for the backward pass. */
  kept: Kept;
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

  #linear(name: GroupName, y: Tensor, x: Tensor, { u }: LayerActivations, { dropout }: Pass): void {
    const { device, scratch } = this.#context;
    groupForward(device, this.weights.groups[name], y, x, u[name], scratch, dropout);
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

  /** Turns the gradient of what #rotate made into that of what it was given, in place. */
  #rotateBack(dqkv: Tensor, { unnormed }: LayerActivations, { buffers: { positions } }: Pass): void {
    const { device, config, rope: tables } = this.#context;
    if (this.#normedHeads === null)
      rope(device, dqkv.columns(0, this.#rotated), tables, positions, config.headDim, true);
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
    const { device, kept, scratch } = this.#context;
    const { batch, buffers, dropout } = pass;
    const { h } = buffers; // [T, I]
    const { dx, dnormed, dattention, dqkv, delta } = buffers.backward!;
    const { qkv, gateUp, norm1, norm2 } = a;
    const { weights } = this;
    const { groups } = weights;
    const backwardInput = (group: LinearGroup, to: Tensor | null, dy: Tensor, u: readonly Tensor[]) =>
      groupBackwardInput(device, group, to, dy, u, scratch, dropout);
    const backwardWeight = (group: LinearGroup, dy: Tensor, x: Tensor, g: readonly Tensor[]) =>
      groupBackwardWeight(device, group, dy, x, g, scratch, dropout);

    this.#recompute(a, pass);

    // MLP: x + down(silu(gate) · up)
    let g = backwardInput(groups.down, h, dx, a.u.down); // h holds dh
    swigluBackward(device, gateUp, h, h); // gateUp holds its gradient, h SwiGLU's output again
    backwardWeight(groups.down, dx, h, g);
    g = backwardInput(groups.gateUp, dnormed, gateUp, a.u.gateUp);
    backwardWeight(groups.gateUp, gateUp, norm2.normed, g);
    normBackward(device, weights.norm2, dx, dnormed, norm2, dx);

    // Attention: x + o(attention(rope(q), rope(k), v))
    g = backwardInput(groups.o, dattention, dx, a.u.o);
    backwardWeight(groups.o, dx, a.attention, g);
    attentionBackward(device, dqkv, delta, dattention, a.attention, qkv, a.lse, batch, this.attention);
    this.#rotateBack(dqkv, a, pass);
    if (hasTrained(groups.qkv) && !keeps(kept, "norms")) normForward(device, weights.norm1, norm1);
    g = backwardInput(groups.qkv, isLast ? null : dnormed, dqkv, a.u.qkv);
    backwardWeight(groups.qkv, dqkv, norm1.normed, g);
    if (!isLast) normBackward(device, weights.norm1, dx, dnormed, norm1, dx);
  }
}
