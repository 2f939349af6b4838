// A Llama: embedding, layers (layer.ts), final norm and head, forward and backward as explicit calls. T: tokens of a
// micro-batch (samples end to end), H: hidden size. Formulas of the ops: kernels/neftune.h.
//
// Owns its arena, weights' handles and mapped files, until close().

import type { Batch } from "../data/batch.ts";
import { NeftuneError } from "../errors.ts";
import {
  Arena,
  type AttentionShape,
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
  type ProductRows,
  type SampleBorders,
  type Tensor,
} from "../native/index.ts";
import {
  type Activations,
  allocateActivations,
  type LayerActivations,
  type Recompute,
  viewsOf,
} from "./activations.ts";
import { layerOf } from "./architecture.ts";
import type { LlamaConfig } from "./config.ts";
import { Embedding } from "./embedding.ts";
import { type Attend, type Collect, Layer, type Pass } from "./layer.ts";
import type { DropoutContext } from "./linear-group.ts";
import { checkLoraOptions, type LoraOptions, type Tune } from "./lora.ts";
import { NOISE_SCALE } from "./noise-scale.ts";
import { addNormForward, normBackward, normForward } from "./norm.ts";
import type { Optimizer } from "./optimizer.ts";
import { type ParameterBlock, Parameters } from "./parameters.ts";
import {
  activationRequest,
  type BatchSize,
  chooseSize,
  type ModelPlan,
  type PlanRequest,
  type SharedMemory,
} from "./plan.ts";
import { expectTrainable, type Quantization } from "./quantize.ts";
import type { Partners } from "./rank-exchange.ts";
import { ropeTables } from "./rope.ts";
import { ShardedParameters } from "./sharded-parameters.ts";
import type { ModelSource } from "./source.ts";
import { allocateWeights, ModelWeights, type WeightStorage } from "./weights.ts";

export interface ModelOptions extends BatchSize {
  /** Activations and frozen weights. */
  dtype: "f32" | "bf16";
  tune: Tune;
  /** Required with tune "lora". */
  lora?: LoraOptions;
  /** Of the layers' linears, on loading; null or none: they stay as the source has them. */
  quantization?: Quantization | null;
  recompute: Recompute | "auto";
  /** Sizes to load for instead: the first that memory allows without recomputing more for it. */
  larger?: Iterable<BatchSize>;
  /** Options that make micro-batches smaller, for advice (PlanRequest). */
  sizedBy?: string;
  /** Positions that RoPE's tables cover: the longest sample. */
  maxPosition: number;
  /** LoRA's start and dropout. */
  seed: number;
  /** Trains a scale of the embedding's noise for each hidden dimension (noise-scale.ts). */
  learnedNoise?: boolean;
  /** How AdamW's moments are kept; absent: in float32. */
  optim?: Optimizer;
  /** With tune "full": the ranks that divide gradients and what AdamW keeps; absent: none do. */
  partners?: Partners;
  /** How many ranks train together, for advice where memory does not suffice; absent: one. */
  ranks?: number;
  /** Absent: this process alone takes what memory is free. */
  sharing?: SharedMemory;
  /** An adapter is applied but not trained: no gradients, no optimizer state, nothing kept for a backward pass. */
  inference?: boolean;
  /** A model with the same frozen weights on this device: they are used, not loaded again. It is to be closed later. */
  weightsOf?: Llama | undefined;
}

export class Llama {
  readonly device: Device;
  readonly config: LlamaConfig;
  readonly options: ModelOptions;
  readonly plan: ModelPlan;
  readonly parameters: ParameterBlock | null;
  readonly embedTokens = new Embedding();
  readonly #source: ModelSource;
  readonly #arena: Arena;
  /** Where the weights lie, for models that share them. */
  readonly storage: WeightStorage;
  readonly #weights: ModelWeights;
  readonly #buffers: Activations;
  readonly #layers: readonly Layer[];
  /** The parameters, where ranks divide them. */
  readonly #sharded: ShardedParameters | null;

  private constructor(device: Device, source: ModelSource, options: ModelOptions, prepared: Prepared) {
    const { config } = source;
    const { request } = prepared;
    const { maxTokens, maxTargets } = request;
    this.device = device;
    this.config = config;
    this.options = { ...options, maxTokens, maxTargets };
    this.#source = source;
    this.plan = prepared.plan;
    this.#arena = prepared.arena;
    const storage = allocateWeights(device, this.#arena, source, request);
    const activations = activationRequest(device, config, request);
    this.#buffers = allocateActivations(this.#arena, config, activations, this.plan.kept);
    const tables = ropeTables(config, options.maxPosition);
    const half = config.headDim / 2;
    const table = (values: Float32Array) => {
      const tensor = this.#arena.allocate("workspace", "f32", [options.maxPosition, half]);
      device.write(tensor, values);
      return tensor;
    };
    const rope = { cosine: table(tables.cosine), sine: table(tables.sine) };
    for (const buffer of this.#buffers.widened) device.fill(buffer, 0);
    this.#weights = new ModelWeights(device, source, storage, request);
    this.storage = storage;
    this.parameters = storage.parameters;
    if (this.parameters instanceof Parameters) this.parameters.onChange(() => this.#weights.placeAdapters());
    this.parameters?.initialize(options.seed);
    const sharded = this.parameters instanceof ShardedParameters ? this.parameters : null;
    this.#sharded = sharded;
    const scratch = { g: this.#buffers.backward?.g ?? [], dropped: this.#buffers.dropped };
    const collect: Collect = (layer, bucket, work) => {
      if (sharded === null) work();
      else sharded.collect(sharded.buckets.layers[layer]![bucket], work);
    };
    const context = { device, config, rope, scratch, kept: this.plan.kept, collect };
    const heads = {
      heads: config.numAttentionHeads,
      kvHeads: config.numKeyValueHeads,
      headDim: config.headDim,
    };
    this.#layers = this.#weights.layers.map((weights, i) => {
      const shape = { ...heads, window: layerOf(config, i).window ?? 0 };
      return new Layer(i, weights, shape, context);
    });
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

  /** The weights in NF4, by name. */
  get quantized(): ReadonlyMap<string, Nf4> {
    return this.storage.quantized.tensors;
  }

  close(): void {
    this.#weights.destroy();
    this.#arena.free();
    this.#source.release(this.device);
  }

  attentionShape(layer: number): AttentionShape {
    return this.#layers[layer]!.attention;
  }

  /**
   * Forward and backward of one micro-batch; gradients of gradientScale · Σ losses are added to the parameters'.
   * `draws`: how many samples the run fed to training before each. Returns the loss of each target token.
   */
  trainBatch(batch: Batch, gradientScale: number, context: { draws: BigInt64Array }): Float32Array {
    return this.startBatch(batch, gradientScale, context)();
  }

  /** The same without waiting: what is returned gives the losses, once, and waits for them then. */
  startBatch(batch: Batch, gradientScale: number, context: { draws: BigInt64Array }): () => Float32Array {
    if (this.#buffers.backward === null)
      throw new NeftuneError("model", "this model was loaded without anything to train");
    const noise = this.#scaled(this.embedTokens.noise(batch, this.config.hiddenSize, context.draws));
    const dropout = this.#dropoutContext(batch, context.draws);
    const buffers = viewsOf(this.#buffers, this.#checkedSize(batch));
    const attend = this.#packedAttention(batch);
    const pass: Pass = { batch, buffers, attend, dropout, noise, rows: "together" };
    const normed = this.#forward(pass, buffers.layers);
    const { dnormed: dx } = buffers.backward!;
    this.#sharded?.openHead();
    const losses = this.#loss(batch, normed, { dx, dweight: this.#weights.dhead, scale: gradientScale });
    const read = this.device.readFloatsLater(losses);
    this.#sharded?.closeHead();
    this.#backward(pass);
    return read;
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
  forwardHidden(batch: Batch, attend: Attend, rows: ProductRows = "together"): Tensor {
    const first = { ...this.#buffers, layers: this.#buffers.layers.slice(0, 1) };
    const buffers = viewsOf(first, this.#checkedSize(batch));
    const layers = Array.from({ length: this.config.numHiddenLayers }, () => buffers.layers[0]!);
    return this.#forward({ batch, buffers, attend, dropout: null, noise: null, rows }, layers);
  }

  /** logits float32 [rows, V] of some rows of the final hidden states, in memory from `arena`. */
  headLogits(hidden: Tensor, rows: Int32Array, arena: Arena, kind: ProductRows = "together"): Tensor {
    const picked = arena.allocate("activations", this.options.dtype, [rows.length, this.config.hiddenSize]);
    gatherRows(this.device, picked, hidden, rows);
    const logits = arena.allocate("activations", "f32", [rows.length, this.config.vocabSize]);
    linearForward(this.device, logits, picked, this.#weights.head, null, null, kind);
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
    normForward(device, this.#weights.layers[0]!.norm1, norm1);
    for (const [i, a] of layers.entries()) {
      this.#layers[i]!.forward(a, pass);
      // The norm that comes next adds what the layer makes to the residual stream.
      const norm = this.#weights.layers[i + 1]?.norm1 ?? this.#weights.norm;
      addNormForward(device, norm, layers[i + 1]?.norm1 ?? buffers.norm, a.norm2.x, buffers.branch);
    }
    return buffers.norm.normed;
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
    normBackward(this.device, this.#weights.norm, dx, dnormed, buffers.norm, null);
    const { dembedding } = this.#weights;
    for (let i = this.#layers.length - 1; i >= 0; i--) {
      const isLast = i === 0 && dembedding === null && !isLearned(noise);
      this.#layers[i]!.backward(buffers.layers[i]!, pass, isLast);
    }
    this.#sharded?.openEmbedding();
    if (dembedding !== null) embeddingBackward(this.device, dembedding, dx, buffers.ids);
    this.#sharded?.closeEmbedding();
    if (isLearned(noise)) {
      const dscale = this.parameters!.gradient(NOISE_SCALE);
      learnedScaleBackward(this.device, dscale, dx, batch, noise);
    }
    this.#sharded?.finishBackward();
  }
}

const isLearned = (noise: EmbeddingNoise | null): noise is EmbeddingNoise =>
  noise?.learnedScale !== undefined;

/** What is settled before anything is loaded. */
interface Prepared {
  request: PlanRequest;
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
  const shared = options.weightsOf?.storage ?? null;
  const asked = { ...options, lora, quantization, training, learnedNoise, shared };
  const { plan, size } = chooseSize(device, source, asked, options.larger ?? []);
  const request = { ...asked, maxTokens: size.maxTokens, maxTargets: size.maxTargets };
  const { weights, trained, activations, workspace } = plan;
  const tables = 2 * (options.maxPosition * (source.config.headDim / 2) * 4 + 256); // RoPE
  const arena = new Arena(device, weights + trained + activations + workspace + tables);
  return { request, plan, arena };
}
