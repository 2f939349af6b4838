// A Llama: forward and backward as explicit calls, op by op. T: tokens of a micro-batch (samples end to end),
// H: hidden size, I: intermediate size. Formulas of the ops: kernels/neftune.h.
//
// Owns its arena, weights' handles and mapped files, until close().

import type { Batch } from "../data/batch.ts";
import { NeftuneError } from "../errors.ts";
import {
  Arena,
  type AttentionShape,
  attentionBackward,
  attentionForward,
  type Device,
  type EmbeddingNoise,
  embeddingBackward,
  embeddingForward,
  gatherRows,
  linearCrossEntropy,
  linearForward,
  type Nf4,
  type RopeTables,
  rmsnormBackward,
  rmsnormForward,
  rope,
  type Samples,
  swigluBackward,
  swigluForward,
  type Tensor,
} from "../native/index.ts";
import {
  type Activations,
  allocateActivations,
  type LayerActivations,
  type Recompute,
  widthsOf,
} from "./activations.ts";
import type { LlamaConfig } from "./config.ts";
import { Embedding } from "./embedding.ts";
import {
  type DropoutContext,
  type GroupScratch,
  groupBackwardInput,
  groupBackwardWeight,
  groupForward,
  hasTrained,
} from "./linear-group.ts";
import { checkLoraOptions, type LoraOptions } from "./lora.ts";
import { initializeLora } from "./lora-init.ts";
import type { Parameters } from "./parameters.ts";
import { choosePlan, type ModelPlan, type PlanRequest, workspaceBytes } from "./plan.ts";
import { expectTrainable, type Quantization } from "./quantize.ts";
import { ropeTables } from "./rope.ts";
import type { ModelSource } from "./source.ts";
import { allocateWeights, ModelWeights, type Tune } from "./weights.ts";

export interface ModelOptions {
  /** Activations and frozen weights. */
  dtype: "f32" | "bf16";
  tune: Tune;
  /** Required with tune "lora". */
  lora?: LoraOptions;
  /** Of the layers' linears, on loading; null or none: they stay as the source has them. */
  quantization?: Quantization | null;
  recompute: Recompute | "auto";
  /** Most tokens of any micro-batch, padding included. */
  maxTokens: number;
  /** Most target tokens of any micro-batch. */
  maxTargets: number;
  /** Positions that RoPE's tables cover: the longest sample. */
  maxPosition: number;
  /** LoRA's start and dropout. */
  seed: number;
  /** An adapter is applied but not trained: no gradients, no optimizer state, nothing kept for a backward pass. */
  inference?: boolean;
}

/** What attention does in a layer: over packed samples, or over a key/value cache (generate.ts). */
export type Attend = (layer: number, activations: LayerActivations, T: number) => void;

export class Llama {
  readonly device: Device;
  readonly config: LlamaConfig;
  readonly options: ModelOptions;
  readonly plan: ModelPlan;
  readonly parameters: Parameters | null;
  /** The weights in NF4, by name. */
  readonly quantized: ReadonlyMap<string, Nf4>;
  readonly embedTokens = new Embedding();
  readonly #source: ModelSource;
  readonly #arena: Arena;
  readonly #weights: ModelWeights;
  readonly #buffers: Activations;
  readonly #scratch: GroupScratch;
  readonly #rope: RopeTables; // f32 [positions, headDim / 2]
  readonly #attention: AttentionShape;

  private constructor(device: Device, source: ModelSource, options: ModelOptions, prepared: Prepared) {
    const { config } = source;
    const { lora, request, training } = prepared;
    this.device = device;
    this.config = config;
    this.options = options;
    this.#source = source;
    this.plan = prepared.plan;
    this.#arena = prepared.arena;
    const storage = allocateWeights(device, this.#arena, source, request);
    const sizes = { ...options, workspaceBytes: workspaceBytes(device, config, request) };
    this.#buffers = allocateActivations(
      this.#arena,
      config,
      options.dtype,
      lora,
      sizes,
      training,
      this.plan.recompute,
      this.plan.keepNorms,
    );
    const tables = ropeTables(config, options.maxPosition);
    const half = config.headDim / 2;
    const table = (values: Float32Array) => {
      const tensor = this.#arena.allocate("workspace", "f32", [options.maxPosition, half]);
      device.write(tensor, values);
      return tensor;
    };
    this.#rope = { cosine: table(tables.cosine), sine: table(tables.sine) };
    this.#weights = new ModelWeights(device, source, storage, request, request.uses);
    this.quantized = storage.quantized.tensors;
    this.parameters = storage.parameters;
    if (training) this.parameters?.zeroState();
    if (lora !== null && this.parameters !== null) initializeLora(device, this.parameters, options.seed);
    this.#scratch = { g: this.#buffers.backward?.g ?? [], dropped: this.#buffers.dropped };
    this.#attention = {
      heads: config.numAttentionHeads,
      kvHeads: config.numKeyValueHeads,
      headDim: config.headDim,
    };
  }

  /** Loads a model. Throws where the checkpoint is not in order or memory does not suffice. */
  static load(device: Device, source: ModelSource, options: ModelOptions): Llama {
    const prepared = prepare(device, source, options);
    source.retain();
    try {
      return new Llama(device, source, options, prepared);
    } catch (error) {
      prepared.arena.free();
      source.release(device);
      throw error;
    }
  }

  close(): void {
    this.#weights.destroy();
    this.#arena.free();
    this.#source.release(this.device);
  }

  get attentionShape(): AttentionShape {
    return this.#attention;
  }

  /**
   * Forward and backward of one micro-batch; gradients of gradientScale · Σ losses are added to the parameters'.
   * `draws`: how many samples the run fed to training before each. Returns the loss of each target token.
   */
  trainBatch(batch: Batch, gradientScale: number, context: { draws: BigInt64Array }): Float32Array {
    const { backward } = this.#buffers;
    if (backward === null) throw new NeftuneError("model", "this model was loaded without anything to train");
    const noise = this.embedTokens.noise(batch, this.config.hiddenSize, context.draws);
    const dropout = this.#dropoutContext(batch, context.draws);
    const attend = this.#packedAttention(batch);
    const normed = this.#forward(batch, this.#buffers.layers, noise, dropout, attend);
    const { dnormed } = backward;
    const dweight = this.#weights.dhead;
    const dx = dnormed.rows(0, batch.ids.length);
    const losses = this.#loss(batch, normed, { dx, dweight, scale: gradientScale });
    this.#backward(batch, dropout, attend);
    return this.device.readFloats(losses); // last, since it waits for all that was enqueued
  }

  /** The loss of each target token, noise and dropout off. */
  evaluate(batch: Batch): Float32Array {
    const hidden = this.forwardHidden(batch, this.#packedAttention(batch));
    return this.device.readFloats(this.#loss(batch, hidden, null));
  }

  /** float32 logits [rows, V] at the given rows of the batch, noise off. */
  logits(batch: Batch, rows: Int32Array): Float32Array {
    const hidden = this.forwardHidden(batch, this.#packedAttention(batch));
    const arena = new Arena(
      this.device,
      rows.length * (this.config.hiddenSize + this.config.vocabSize) * 4 + 1024,
    );
    try {
      return this.device.readFloats(this.headLogits(hidden, rows, arena));
    } finally {
      arena.free();
    }
  }

  /** The final norm's output [T, H], with nothing kept for a backward pass. */
  forwardHidden(batch: Batch, attend: Attend): Tensor {
    const only = this.#buffers.layers[0]!;
    const layers = Array.from({ length: this.config.numHiddenLayers }, () => only);
    return this.#forward(batch, layers, null, null, attend);
  }

  /** logits float32 [rows, V] of some rows of the final hidden states, in memory from `arena`. */
  headLogits(hidden: Tensor, rows: Int32Array, arena: Arena): Tensor {
    const picked = arena.allocate("activations", this.options.dtype, [rows.length, this.config.hiddenSize]);
    gatherRows(this.device, picked, hidden, rows);
    const logits = arena.allocate("activations", "f32", [rows.length, this.config.vocabSize]);
    linearForward(this.device, logits, picked, this.#weights.head, null);
    return logits;
  }

  #dropoutContext(samples: Samples, draws: BigInt64Array): DropoutContext | null {
    const p = this.options.tune === "lora" ? (this.options.lora?.dropout ?? 0) : 0;
    return p > 0 ? { samples, p, seed: this.options.seed, draws } : null;
  }

  #packedAttention(samples: Samples): Attend {
    return (_layer, a, T) => {
      const lse = this.#buffers.backward === null ? null : a.lse.reshapeTo([this.#attention.heads, T]);
      attentionForward(this.device, a.attention.rows(0, T), lse, a.qkv.rows(0, T), samples, this.#attention);
    };
  }

  #checkSizes(batch: Batch): void {
    const [T, n] = [batch.ids.length, batch.targets.length];
    const { maxTokens, maxTargets, maxPosition } = this.options;
    const longest = batch.positions.reduce((most, position) => Math.max(most, position + 1), 0);
    if (T > maxTokens || n > maxTargets || longest > maxPosition) {
      throw new NeftuneError(
        "model",
        `a micro-batch of ${T} tokens, ${n} targets and positions up to ${longest} is more than the model was loaded ` +
          `for (${maxTokens}, ${maxTargets}, ${maxPosition})`,
      );
    }
    for (const id of batch.ids) {
      if (id < 0 || id >= this.config.vocabSize) {
        throw new NeftuneError(
          "data",
          `token id ${id} is outside the model's vocabulary of ${this.config.vocabSize}`,
        );
      }
    }
  }

  /** Residual stream through all layers; returns the final norm's output. Each layer writes to its own activations. */
  #forward(
    batch: Batch,
    layers: LayerActivations[],
    noise: EmbeddingNoise | null,
    dropout: DropoutContext | null,
    attend: Attend,
  ): Tensor {
    this.#checkSizes(batch);
    const { device, config } = this;
    const buffers = this.#buffers;
    const T = batch.ids.length;
    const branch = buffers.branch.rows(0, T); // [T, H]
    const x = layers[0]!.x.rows(0, T); // [T, H]
    const ids = buffers.ids.rows(0, T);
    device.write(ids, batch.ids);
    device.write(buffers.positions.rows(0, T), batch.positions);

    embeddingForward(device, x, this.#weights.embedding, ids, batch, noise);
    const first = layers[0]!;
    const { norm1 } = this.#weights.layers[0]!;
    rmsnormForward(device, first.normed1.rows(0, T), first.rstd1, x, norm1.weight, config.rmsNormEps);
    for (const [i, a] of layers.entries()) {
      this.#layerForward(i, a, T, dropout, attend);
      swigluForward(device, buffers.h.rows(0, T), a.gateUp.rows(0, T));
      groupForward(
        device,
        this.#weights.layers[i]!.groups.down,
        branch,
        buffers.h.rows(0, T),
        rowsOf(a.u.down, T),
        this.#scratch,
        dropout,
      );
      const next = layers[i + 1];
      const sum = (next?.x ?? buffers.final).rows(0, T);
      const weight = (this.#weights.layers[i + 1]?.norm1 ?? this.#weights.norm).weight;
      const rstd = next?.rstd1 ?? buffers.finalRstd;
      const normed = (next?.normed1 ?? buffers.normed).rows(0, T);
      rmsnormForward(device, normed, rstd, a.mid.rows(0, T), weight, config.rmsNormEps, {
        delta: branch,
        sum,
      });
    }
    return buffers.normed.rows(0, T);
  }

  /** From the norm of a layer's input (in normed1) to gate and up. Also how a layer is recomputed. */
  #layerForward(
    i: number,
    a: LayerActivations,
    T: number,
    dropout: DropoutContext | null,
    attend: Attend,
  ): void {
    const { device } = this;
    const { groups, norm2 } = this.#weights.layers[i]!;
    const [normed1, normed2] = [a.normed1.rows(0, T), a.normed2.rows(0, T)]; // [T, H]
    const branch = this.#buffers.branch.rows(0, T); // [T, H]
    const qkv = a.qkv.rows(0, T); // [T, queries + 2·keys]
    groupForward(device, groups.qkv, qkv, normed1, rowsOf(a.u.qkv, T), this.#scratch, dropout);
    this.#rotate(qkv, false);
    attend(i, a, T);
    groupForward(device, groups.o, branch, a.attention.rows(0, T), rowsOf(a.u.o, T), this.#scratch, dropout);
    const sum = a.mid.rows(0, T); // [T, H]
    rmsnormForward(device, normed2, a.rstd2, a.x.rows(0, T), norm2.weight, this.config.rmsNormEps, {
      delta: branch,
      sum,
    });
    groupForward(
      device,
      groups.gateUp,
      a.gateUp.rows(0, T),
      normed2,
      rowsOf(a.u.gateUp, T),
      this.#scratch,
      dropout,
    );
  }

  /** RoPE on the q and k columns, in place. */
  #rotate(qkv: Tensor, inverse: boolean): void {
    const { queries, keys } = widthsOf(this.config);
    rope(
      this.device,
      qkv.columns(0, queries + keys),
      this.#rope,
      this.#buffers.positions,
      this.config.headDim,
      inverse,
    );
  }

  /** The loss of each target token, f32 [targets], and with `gradients` those of the head. */
  #loss(
    batch: Batch,
    hidden: Tensor,
    gradients: { dx: Tensor; dweight: Tensor | null; scale: number } | null,
  ): Tensor {
    const n = batch.targets.length;
    const losses = this.#buffers.losses.rows(0, n); // f32 [n]
    linearCrossEntropy(
      this.device,
      losses,
      hidden,
      this.#weights.head,
      batch.targetRows,
      batch.targets,
      this.#buffers.workspace,
      gradients,
    );
    return losses;
  }

  /** From the gradient of the final norm's output (in dnormed) down to the embedding. */
  #backward(batch: Batch, dropout: DropoutContext | null, attend: Attend): void {
    const { device } = this;
    const buffers = this.#buffers;
    const backward = buffers.backward!;
    const T = batch.ids.length;
    const dx = backward.dx.rows(0, T); // [T, H]
    const dnormed = backward.dnormed.rows(0, T); // [T, H]
    const { norm } = this.#weights;
    rmsnormBackward(
      device,
      dx,
      norm.dweight,
      dnormed,
      buffers.final.rows(0, T),
      norm.weight,
      buffers.finalRstd,
      null,
    );
    for (let i = this.config.numHiddenLayers - 1; i >= 0; i--) this.#layerBackward(i, batch, dropout, attend);
    if (this.#weights.dembedding !== null) {
      embeddingBackward(device, this.#weights.dembedding, dx, buffers.ids.rows(0, T));
    }
  }

  /** Turns dx from the gradient of layer i's output into that of its input. */
  #layerBackward(i: number, batch: Batch, dropout: DropoutContext | null, attend: Attend): void {
    const { device, config } = this;
    const buffers = this.#buffers;
    const backward = buffers.backward!;
    const scratch = this.#scratch;
    const T = batch.ids.length;
    const a = buffers.layers[i]!;
    const { groups, norm1, norm2 } = this.#weights.layers[i]!;
    const [x, mid, attention] = [a.x.rows(0, T), a.mid.rows(0, T), a.attention.rows(0, T)];
    const [qkv, gateUp, h] = [a.qkv.rows(0, T), a.gateUp.rows(0, T), buffers.h.rows(0, T)];
    const [normed1, normed2] = [a.normed1.rows(0, T), a.normed2.rows(0, T)];
    const [dx, dnormed] = [backward.dx.rows(0, T), backward.dnormed.rows(0, T)];
    const { keepNorms, recompute } = this.plan;
    const [dattention, dqkv] = [backward.dattention.rows(0, T), backward.dqkv.rows(0, T)];

    if (recompute === "layer") {
      rmsnormForward(device, normed1, a.rstd1, x, norm1.weight, config.rmsNormEps);
      this.#layerForward(i, a, T, dropout, attend);
    } else {
      const needed = !keepNorms && (hasTrained(groups.gateUp) || recompute === "mlp");
      if (needed) rmsnormForward(device, normed2, a.rstd2, mid, norm2.weight, config.rmsNormEps);
      if (recompute === "mlp")
        groupForward(device, groups.gateUp, gateUp, normed2, rowsOf(a.u.gateUp, T), scratch, dropout);
    }

    // MLP: x + down(silu(gate) · up)
    let g = groupBackwardInput(device, groups.down, h, dx, rowsOf(a.u.down, T), scratch, dropout); // h holds dh
    swigluBackward(device, gateUp, h, h); // gateUp holds its gradient, h SwiGLU's output again
    groupBackwardWeight(device, groups.down, dx, h, g, scratch, dropout);
    g = groupBackwardInput(device, groups.gateUp, dnormed, gateUp, rowsOf(a.u.gateUp, T), scratch, dropout);
    groupBackwardWeight(device, groups.gateUp, gateUp, normed2, g, scratch, dropout);
    rmsnormBackward(device, dx, norm2.dweight, dnormed, mid, norm2.weight, a.rstd2, dx);

    // Attention: x + o(attention(rope(q), rope(k), v))
    g = groupBackwardInput(device, groups.o, dattention, dx, rowsOf(a.u.o, T), scratch, dropout);
    groupBackwardWeight(device, groups.o, dx, attention, g, scratch, dropout);
    const heads = this.#attention.heads;
    const lse = a.lse.reshapeTo([heads, T]);
    attentionBackward(
      device,
      dqkv,
      backward.delta.reshapeTo([heads, T]),
      dattention,
      attention,
      qkv,
      lse,
      batch,
      this.#attention,
    );
    this.#rotate(dqkv, true);
    const last = i === 0 && this.#weights.dembedding === null; // nothing below is trained
    if (hasTrained(groups.qkv) && !keepNorms)
      rmsnormForward(device, normed1, a.rstd1, x, norm1.weight, config.rmsNormEps);
    g = groupBackwardInput(
      device,
      groups.qkv,
      last ? null : dnormed,
      dqkv,
      rowsOf(a.u.qkv, T),
      scratch,
      dropout,
    );
    groupBackwardWeight(device, groups.qkv, dqkv, normed1, g, scratch, dropout);
    if (!last) rmsnormBackward(device, dx, norm1.dweight, dnormed, x, norm1.weight, a.rstd1, dx);
  }
}

/** What is settled before anything is loaded. */
interface Prepared {
  lora: LoraOptions | null;
  request: PlanRequest;
  training: boolean;
  plan: ModelPlan;
  arena: Arena;
}

/** Checks the options, plans the memory and allocates it. */
function prepare(device: Device, source: ModelSource, options: ModelOptions): Prepared {
  const lora = options.tune === "lora" ? (options.lora ?? null) : null;
  if (options.tune === "lora") {
    if (lora === null) throw new NeftuneError("model", 'tune "lora" needs LoRA options');
    checkLoraOptions(lora);
  }
  const quantization = options.quantization ?? null;
  if (options.tune === "full") expectTrainable(source, quantization);
  const training = options.tune !== "none" && options.inference !== true;
  const request = { ...options, lora, quantization, training, uses: { forward: false, backward: false } };
  const plan = choosePlan(device, source, request);
  const { weights, trained, activations, workspace } = plan;
  const tables = 2 * (options.maxPosition * (source.config.headDim / 2) * 4 + 256); // RoPE
  const arena = new Arena(device, weights + trained + activations + workspace + tables);
  return { lora, request, training, plan, arena };
}

const rowsOf = (tensors: readonly Tensor[], T: number) => tensors.map((tensor) => tensor.rows(0, T));
