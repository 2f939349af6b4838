// A model of a few numbers that keeps the contract of `Llama`: token t is scored by B·(A[:, id] + noise), trained by
// AdamW in float32. Deterministic, and small enough that a run of it takes milliseconds.

import type { Batch } from "../../src/data/batch.ts";
import type { Sample } from "../../src/data/sample.ts";
import {
  Embedding,
  type LlamaConfig,
  momentKinds,
  type ParameterTensor,
  type PartName,
  type StateKind,
  type StateTensor,
} from "../../src/model/index.ts";
import type { AdamWOptions } from "../../src/native/index.ts";
import type { TrainableModel, TrainedParameters } from "../../src/train/model.ts";

const path = "model.layers.0.self_attn.q_proj";
const vocabulary = 11;
const rank = 3;

const config: LlamaConfig = {
  modelType: "llama",
  window: null,
  hiddenSize: rank,
  intermediateSize: 4,
  numHiddenLayers: 1,
  numAttentionHeads: 1,
  numKeyValueHeads: 1,
  headDim: 4,
  vocabSize: vocabulary,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  ropeScaling: null,
  tieWordEmbeddings: false,
  attentionBias: false,
  mlpBias: false,
  maxPositionEmbeddings: 128,
  bosTokenId: 1,
  eosTokenIds: [2],
  initializerRange: 0.02,
  dtype: "bf16",
  quantization: null,
};

class FakeParameters implements TrainedParameters {
  readonly tensors: readonly ParameterTensor[];

  constructor(part: PartName) {
    const size = rank * vocabulary;
    const matrix = { part, size, decay: true };
    this.tensors = [
      {
        ...matrix,
        name: `${path}.lora_A.weight`,
        shape: [rank, vocabulary],
        laid: [rank, vocabulary],
        offset: 0,
      },
      {
        ...matrix,
        name: `${path}.lora_B.weight`,
        shape: [vocabulary, rank],
        laid: [vocabulary, rank],
        offset: size,
      },
    ];
  }

  part(name: PartName): ParameterTensor[] {
    return this.tensors.filter(({ part }) => part === name);
  }

  readonly values = Float32Array.from({ length: 2 * rank * vocabulary }, (_, i) => Math.sin(i * 7 + 1) / 4);
  readonly gradients = new Float32Array(this.values.length);
  readonly m = new Float32Array(this.values.length);
  readonly v = new Float32Array(this.values.length);
  /** The learning rate and step number of every update. */
  readonly updates: { learningRate: number; step: number }[] = [];
  #clip = 1;

  get a(): Float32Array {
    return this.values.subarray(0, rank * vocabulary);
  }

  get b(): Float32Array {
    return this.values.subarray(rank * vocabulary);
  }

  zeroGradients(): void {
    this.gradients.fill(0);
  }

  startGradientNorm(maxNorm: number): () => number {
    const norm = Math.sqrt(this.gradients.reduce((sum, g) => sum + g * g, 0));
    this.#clip = maxNorm > 0 ? Math.min(1, maxNorm / (norm + 1e-6)) : 1;
    return () => norm;
  }

  adamwStep({ learningRate, beta1, beta2, epsilon, weightDecay, step }: AdamWOptions): void {
    this.updates.push({ learningRate, step });
    for (let i = 0; i < this.values.length; i++) {
      const g = this.gradients[i]! * this.#clip;
      this.m[i] = beta1 * this.m[i]! + (1 - beta1) * g;
      this.v[i] = beta2 * this.v[i]! + (1 - beta2) * g * g;
      const update =
        this.m[i]! / (1 - beta1 ** step) / (Math.sqrt(this.v[i]! / (1 - beta2 ** step)) + epsilon);
      this.values[i] = this.values[i]! * (1 - learningRate * weightDecay) - learningRate * update;
    }
  }

  #of(name: string, kind: StateKind): Float32Array {
    const { offset, size } = this.tensors.find((tensor) => tensor.name === name)!;
    return this[kind].subarray(offset, offset + size);
  }

  read(name: string): Float32Array<ArrayBuffer> {
    return Float32Array.from(this.#of(name, "values"));
  }

  write(name: string, values: Float32Array): void {
    this.#of(name, "values").set(values);
  }

  get stateTensors(): StateTensor[] {
    return momentKinds.flatMap((kind) =>
      this.tensors.map(({ name, shape }) => ({ name: `${kind}.${name}`, dtype: "F32" as const, shape })),
    );
  }

  readState(name: string): Uint8Array<ArrayBuffer> {
    return new Uint8Array(Float32Array.from(this.#of(name.slice(2), name[0] as "m" | "v")).buffer);
  }

  writeState(name: string, bytes: Uint8Array): void {
    const values = new Float32Array(bytes.slice().buffer);
    this.#of(name.slice(2), name[0] as "m" | "v").set(values);
  }

  afterWrite(): void {}

  skipBatch(): void {}

  lead<T>(work: () => T): T {
    return work();
  }

  follow(): void {}

  findNonFinite(kind: StateKind = "values"): string | null {
    return this.tensors.find(({ name }) => !this.#of(name, kind).every(Number.isFinite))?.name ?? null;
  }
}

export class FakeModel implements TrainableModel {
  readonly config = config;
  readonly options: TrainableModel["options"];
  readonly device = {
    info: { backend: "fake" },
    peakMemory: () => 0,
    expectFilesUnchanged: () => {},
    matmulChoices: () => "",
    useMatmulChoices: (_text: string) => {},
  };
  readonly plan = { total: 1234 };
  readonly parameters: FakeParameters;
  readonly embedTokens = new Embedding();
  /** Draws of every sample trained on, in order. */
  readonly draws: number[] = [];
  readonly noiseKinds = new Set<string>();
  /** Multiplies the losses and gradients of the calls counted from 0. */
  faults = new Map<number, number>();
  calls = 0;

  constructor(tune: "lora" | "full" = "lora") {
    this.parameters = new FakeParameters(tune === "lora" ? "lora" : "weights");
    const lora = { r: rank, alpha: 6, dropout: 0, targetModules: ["q_proj" as const], useRslora: false };
    this.options = { dtype: "f32", tune, ...(tune === "lora" ? { lora } : {}) };
  }

  startBatch(batch: Batch, gradientScale: number, { draws }: { draws: BigInt64Array }): () => Float32Array {
    this.draws.push(...Array.from(draws, Number));
    const noise = this.embedTokens.noise(batch, rank, draws);
    this.noiseKinds.add(noise?.kind ?? "none");
    const fault = this.faults.get(this.calls++) ?? 1;
    const losses = this.#run(batch, gradientScale * fault, (sample, position) =>
      noise === null ? 0 : noise.scales[sample]! * Math.sin(Number(noise.draws[sample]) * 31 + position),
    ).map((loss) => loss * fault);
    return () => losses;
  }

  evaluate(batch: Batch): Float32Array {
    return this.#run(batch, 0, () => 0);
  }

  #run(batch: Batch, scale: number, noise: (sample: number, position: number) => number): Float32Array {
    const { a, b, gradients } = this.parameters;
    return Float32Array.from(batch.targetRows, (row, n) => {
      const id = batch.ids[row]!;
      const sample = batch.cuSeqlens.findLastIndex((begin) => begin <= row);
      const extra = noise(sample, batch.positions[row]!);
      const hidden = Array.from({ length: rank }, (_, k) => a[k * vocabulary + id]! + extra);
      const logits = Array.from({ length: vocabulary }, (_, v) =>
        hidden.reduce((sum, h, k) => sum + b[v * rank + k]! * h, 0),
      );
      const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
      for (let v = 0; v < vocabulary; v++) {
        const delta = scale * (Math.exp(logits[v]!) / total - (v === batch.targets[n] ? 1 : 0));
        for (let k = 0; k < rank; k++) {
          gradients[k * vocabulary + id]! += delta * b[v * rank + k]!;
          gradients[rank * vocabulary + v * rank + k]! += delta * hidden[k]!;
        }
      }
      return Math.log(total) - logits[batch.targets[n]!]!;
    });
  }
}

/** Samples of 2 to 9 tokens, whose first third is no target. */
export function fakeSamples(count: number): Sample[] {
  return Array.from({ length: count }, (_, n) => {
    const length = 2 + ((n * 5) % 8);
    const ids = Int32Array.from({ length }, (_, i) => (n * 3 + i * i) % vocabulary);
    return { ids, labels: ids.map((id, i) => (i < length / 3 ? -100 : id)), truncated: false };
  });
}
