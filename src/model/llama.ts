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
  learnedScaleBackward,
  linearCrossEntropy,
  linearForward,
  type Nf4,
  type RopeTables,
  rmsnormBackward,
  rmsnormForward,
  rmsnormRopeBackward,
  rmsnormRopeForward,
  rope,
  type SampleBorders,
  swigluBackward,
  swigluForward,
  type Tensor,
} from "../native/index.ts";
import {
  type Activations,
  allocateActivations,
  type LayerActivations,
  type NormActivations,
  type Recompute,
  viewsOf,
} from "./activations.ts";
import { layerOf, widthsOf } from "./architecture.ts";
import type { LlamaConfig } from "./config.ts";
import { Embedding } from "./embedding.ts";
import {
  type DropoutContext,
  type GroupScratch,
  groupBackwardInput,
  groupBackwardWeight,
  groupForward,
  hasTrained,
  type LinearGroup,
} from "./linear-group.ts";
import { checkLoraOptions, type LoraOptions } from "./lora.ts";
import { initializeLora } from "./lora-init.ts";
import { initializeNoiseScale, NOISE_SCALE } from "./noise-scale.ts";
import type { Parameters } from "./parameters.ts";
import { choosePlan, type ModelPlan, type PlanRequest, workspaceBytes } from "./plan.ts";
import { expectTrainable, type Quantization } from "./quantize.ts";
import { ropeTables } from "./rope.ts";
import type { ModelSource } from "./source.ts";
import { allocateWeights, ModelWeights, type Norm, type Tune } from "./weights.ts";

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
  /** Trains a scale of the embedding's noise for each hidden dimension (noise-scale.ts). */
  learnedNoise?: boolean;
  /** An adapter is applied but not trained: no gradients, no optimizer state, nothing kept for a backward pass. */
  inference?: boolean;
}

/** What attention does in a layer: over packed samples, or over a key/value cache (generate.ts). */
export type Attend = (layer: number, activations: LayerActivations) => void;

/** What one micro-batch goes through the layers with. */
interface Pass {
  batch: Batch;
  /** Views of T rows. */
  buffers: Activations;
  attend: Attend;
  dropout: DropoutContext | null;
  noise: EmbeddingNoise | null;
}

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
  readonly #attention: readonly AttentionShape[]; // of each layer

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
    if (this.parameters !== null) initializeNoiseScale(device, this.parameters);
    if (lora !== null && this.parameters !== null) initializeLora(device, this.parameters, options.seed);
    this.#scratch = { g: this.#buffers.backward?.g ?? [], dropped: this.#buffers.dropped };
    this.#attention = Array.from({ length: config.numHiddenLayers }, (_, layer) => ({
      heads: config.numAttentionHeads,
      kvHeads: config.numKeyValueHeads,
      headDim: config.headDim,
      window: layerOf(config, layer).window ?? 0,
    }));
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

  attentionShape(layer: number): AttentionShape {
    return this.#attention[layer]!;
  }

  /**
   * Forward and backward of one micro-batch; gradients of gradientScale · Σ losses are added to the parameters'.
   * `draws`: how many samples the run fed to training before each. Returns the loss of each target token.
   */
  trainBatch(batch: Batch, gradientScale: number, context: { draws: BigInt64Array }): Float32Array {
    if (this.#buffers.backward === null)
      throw new NeftuneError("model", "this model was loaded without anything to train");
    const noise = this.#scaled(this.embedTokens.noise(batch, this.config.hiddenSize, context.draws));
    const dropout = this.#dropoutContext(batch, context.draws);
    const buffers = viewsOf(this.#buffers, this.#checkedSize(batch));
    const pass = { batch, buffers, attend: this.#packedAttention(batch), dropout, noise };
    const normed = this.#forward(pass, buffers.layers);
    const { dnormed: dx } = buffers.backward!;
    const losses = this.#loss(batch, normed, { dx, dweight: this.#weights.dhead, scale: gradientScale });
    this.#backward(pass);
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
    const first = { ...this.#buffers, layers: this.#buffers.layers.slice(0, 1) };
    const buffers = viewsOf(first, this.#checkedSize(batch));
    const layers = Array.from({ length: this.config.numHiddenLayers }, () => buffers.layers[0]!);
    return this.#forward({ batch, buffers, attend, dropout: null, noise: null }, layers);
  }

  /** logits float32 [rows, V] of some rows of the final hidden states, in memory from `arena`. */
  headLogits(hidden: Tensor, rows: Int32Array, arena: Arena): Tensor {
    const picked = arena.allocate("activations", this.options.dtype, [rows.length, this.config.hiddenSize]);
    gatherRows(this.device, picked, hidden, rows);
    const logits = arena.allocate("activations", "f32", [rows.length, this.config.vocabSize]);
    linearForward(this.device, logits, picked, this.#weights.head, null);
    return logits;
  }

  /** The noise with its learned scale, where there is one. */
  #scaled(noise: EmbeddingNoise | null): EmbeddingNoise | null {
    if (noise === null || this.options.learnedNoise !== true) return noise;
    return { ...noise, learnedScale: this.parameters!.master(NOISE_SCALE) };
  }

  #dropoutContext(samples: SampleBorders, draws: BigInt64Array): DropoutContext | null {
    const p = this.options.tune === "lora" ? (this.options.lora?.dropout ?? 0) : 0;
    return p > 0 ? { samples, p, seed: this.options.seed, draws } : null;
  }

  #packedAttention(samples: SampleBorders): Attend {
    return (layer, { attention, lse, qkv }) => {
      const kept = this.#buffers.backward === null ? null : lse;
      attentionForward(this.device, attention, kept, qkv, samples, this.attentionShape(layer));
    };
  }

  /** Tokens of a micro-batch that the model has room for. */
  #checkedSize(batch: Batch): number {
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
    return T;
  }

  /** Residual stream through all layers; returns the final norm's output. Each layer writes to its own activations. */
  #forward(pass: Pass, layers: LayerActivations[]): Tensor {
    const { device } = this;
    const { batch, buffers, noise } = pass;
    const { norm1 } = layers[0]!;
    device.write(buffers.ids, batch.ids);
    device.write(buffers.positions, batch.positions);

    embeddingForward(device, norm1.x, this.#weights.embedding, buffers.ids, batch, noise);
    this.#norm(norm1, this.#weights.layers[0]!.norm1);
    for (const [i, a] of layers.entries()) {
      this.#layerForward(i, a, pass);
      swigluForward(device, buffers.h, a.gateUp);
      this.#linear(this.#weights.layers[i]!.groups.down, buffers.branch, buffers.h, a.u.down, pass);
      // The norm that comes next adds what the layer makes to the residual stream.
      const next = layers[i + 1]?.norm1 ?? buffers.norm;
      this.#addAndNorm(next, this.#weights.layers[i + 1]?.norm1 ?? this.#weights.norm, a.norm2.x, pass);
    }
    return buffers.norm.normed;
  }

  /** From the norm of a layer's input to gate and up. Also how a layer is recomputed. */
  #layerForward(i: number, a: LayerActivations, pass: Pass): void {
    const { groups, norm2 } = this.#weights.layers[i]!;
    const { branch } = pass.buffers; // [T, H]
    this.#linear(groups.qkv, a.qkv, a.norm1.normed, a.u.qkv, pass);
    this.#rotate(i, a, pass);
    pass.attend(i, a);
    this.#linear(groups.o, branch, a.attention, a.u.o, pass);
    this.#addAndNorm(a.norm2, norm2, a.norm1.x, pass);
    this.#linear(groups.gateUp, a.gateUp, a.norm2.normed, a.u.gateUp, pass);
  }

  #linear(group: LinearGroup, y: Tensor, x: Tensor, u: readonly Tensor[], { dropout }: Pass): void {
    groupForward(this.device, group, y, x, u, this.#scratch, dropout);
  }

  /** a.normed = RMSNorm(a.x). */
  #norm({ x, rstd, normed }: NormActivations, { weight }: Norm): void {
    rmsnormForward(this.device, normed, rstd, x, weight, this.config.rmsNormEps);
  }

  /** a.x = x + branch; a.normed = RMSNorm(a.x). */
  #addAndNorm(a: NormActivations, { weight }: Norm, x: Tensor, { buffers }: Pass): void {
    const residual = { delta: buffers.branch, sum: a.x };
    rmsnormForward(this.device, a.normed, a.rstd, x, weight, this.config.rmsNormEps, residual);
  }

  /** dx = the gradient of a.x: through the norm from dy, and `past` it. */
  #normBackward(dx: Tensor, dy: Tensor, { x, rstd }: NormActivations, norm: Norm, past: Tensor | null): void {
    rmsnormBackward(this.device, dx, norm.dweight, dy, x, norm.weight, rstd, past);
  }

  /** RoPE on the q and k columns, in place; before it, where the model has them, the norms of their heads. */
  #rotate(i: number, { qkv, unnormed }: LayerActivations, { buffers }: Pass): void {
    const { queries, keys } = widthsOf(this.config);
    const { headNorms } = this.#weights.layers[i]!;
    const { headDim, rmsNormEps: eps } = this.config;
    if (headNorms === null) {
      rope(this.device, qkv.columns(0, queries + keys), this.#rope, buffers.positions, headDim);
      return;
    }
    const parts = [
      [headNorms.q, 0, queries],
      [headNorms.k, queries, keys],
    ] as const;
    for (const [{ weight }, begin, width] of parts) {
      const kept = unnormed?.columns(begin, width) ?? null;
      const x = qkv.columns(begin, width);
      rmsnormRopeForward(this.device, x, kept, { weight, eps }, this.#rope, buffers.positions);
    }
  }

  /** Turns the gradient of what #rotate made into that of what it was given, in place. */
  #rotateBack(i: number, dqkv: Tensor, { unnormed }: LayerActivations, { buffers }: Pass): void {
    const { queries, keys } = widthsOf(this.config);
    const { headNorms } = this.#weights.layers[i]!;
    const { headDim, rmsNormEps: eps } = this.config;
    if (headNorms === null) {
      rope(this.device, dqkv.columns(0, queries + keys), this.#rope, buffers.positions, headDim, true);
      return;
    }
    const parts = [
      [headNorms.q, 0, queries],
      [headNorms.k, queries, keys],
    ] as const;
    for (const [{ weight, dweight }, begin, width] of parts) {
      const [dx, x] = [dqkv.columns(begin, width), unnormed!.columns(begin, width)];
      rmsnormRopeBackward(this.device, dx, dweight, x, { weight, eps }, this.#rope, buffers.positions);
    }
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
  #backward(pass: Pass): void {
    const { batch, buffers, noise } = pass;
    const { dx, dnormed } = buffers.backward!;
    this.#normBackward(dx, dnormed, buffers.norm, this.#weights.norm, null);
    for (let i = this.config.numHiddenLayers - 1; i >= 0; i--) this.#layerBackward(i, pass);
    const { dembedding } = this.#weights;
    if (dembedding !== null) embeddingBackward(this.device, dembedding, dx, buffers.ids);
    if (isLearned(noise)) {
      const dscale = this.parameters!.gradient(NOISE_SCALE);
      learnedScaleBackward(this.device, dscale, dx, batch, noise);
    }
  }

  /** Turns dx from the gradient of layer i's output into that of its input. */
  #layerBackward(i: number, pass: Pass): void {
    const { device } = this;
    const { batch, buffers, dropout } = pass;
    const { h } = buffers; // [T, I]
    const { dx, dnormed, dattention, dqkv, delta } = buffers.backward!;
    const a = buffers.layers[i]!;
    const { qkv, gateUp, norm1, norm2 } = a;
    const weights = this.#weights.layers[i]!;
    const { groups } = weights;
    const { keepNorms, recompute } = this.plan;
    const backwardInput = (group: LinearGroup, to: Tensor | null, dy: Tensor, u: readonly Tensor[]) =>
      groupBackwardInput(device, group, to, dy, u, this.#scratch, dropout);
    const backwardWeight = (group: LinearGroup, dy: Tensor, x: Tensor, g: readonly Tensor[]) =>
      groupBackwardWeight(device, group, dy, x, g, this.#scratch, dropout);

    if (recompute === "layer") {
      this.#norm(norm1, weights.norm1);
      this.#layerForward(i, a, pass);
    } else {
      if (!keepNorms && (hasTrained(groups.gateUp) || recompute === "mlp")) this.#norm(norm2, weights.norm2);
      if (recompute === "mlp") this.#linear(groups.gateUp, gateUp, norm2.normed, a.u.gateUp, pass);
    }

    // MLP: x + down(silu(gate) · up)
    let g = backwardInput(groups.down, h, dx, a.u.down); // h holds dh
    swigluBackward(device, gateUp, h, h); // gateUp holds its gradient, h SwiGLU's output again
    backwardWeight(groups.down, dx, h, g);
    g = backwardInput(groups.gateUp, dnormed, gateUp, a.u.gateUp);
    backwardWeight(groups.gateUp, gateUp, norm2.normed, g);
    this.#normBackward(dx, dnormed, norm2, weights.norm2, dx);

    // Attention: x + o(attention(rope(q), rope(k), v))
    g = backwardInput(groups.o, dattention, dx, a.u.o);
    backwardWeight(groups.o, dx, a.attention, g);
    const shape = this.attentionShape(i);
    attentionBackward(device, dqkv, delta, dattention, a.attention, qkv, a.lse, batch, shape);
    this.#rotateBack(i, dqkv, a, pass);
    // nothing below is trained
    const isLast = i === 0 && this.#weights.dembedding === null && !isLearned(pass.noise);
    if (hasTrained(groups.qkv) && !keepNorms) this.#norm(norm1, weights.norm1);
    g = backwardInput(groups.qkv, isLast ? null : dnormed, dqkv, a.u.qkv);
    backwardWeight(groups.qkv, dqkv, norm1.normed, g);
    if (!isLast) this.#normBackward(dx, dnormed, norm1, weights.norm1, dx);
  }
}

const isLearned = (noise: EmbeddingNoise | null): noise is EmbeddingNoise =>
  noise?.learnedScale !== undefined;

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
  const learnedNoise = training && options.learnedNoise === true;
  const uses = { forward: false, backward: false };
  const request = { ...options, lora, quantization, training, learnedNoise, uses };
  const plan = choosePlan(device, source, request);
  const { weights, trained, activations, workspace } = plan;
  const tables = 2 * (options.maxPosition * (source.config.headDim / 2) * 4 + 256); // RoPE
  const arena = new Arena(device, weights + trained + activations + workspace + tables);
  return { lora, request, training, plan, arena };
}
