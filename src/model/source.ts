// Where a model's starting weights come from: a checkpoint's mapped files, or random numbers.

import { FormatError } from "../errors.ts";
import { type Checkpoint, openCheckpoint } from "../formats/checkpoint.ts";
import { type Device, dtypeCode, random, Tensor } from "../native/index.ts";
import { type LlamaConfig, readConfig } from "./config.ts";

type FloatDType = "f32" | "bf16" | "f16";

export interface ModelSource {
  readonly config: LlamaConfig;
  /** The stored dtype of a tensor; throws where it is missing or has another shape. */
  dtypeOf(name: string, shape: readonly number[]): FloatDType;
  /** The tensor where it lies, if the device can use it there and it has this dtype; else null. */
  inPlace(device: Device, name: string, shape: readonly number[], dtype: FloatDType): Tensor | null;
  /** Fills `destination` with the tensor, converted. */
  fill(device: Device, name: string, destination: Tensor): void;
  /** Names and stored bytes of the tensors that the config calls for. */
  tensorBytes(): { name: string; bytes: number }[];
  /** Takes part in the source's use by a model; the last release() unmaps what was mapped. */
  retain(): void;
  release(device: Device): void;
}

const floatTypes: Record<string, FloatDType> = { F32: "f32", BF16: "bf16", F16: "f16" };

class CheckpointSource implements ModelSource {
  readonly config: LlamaConfig;
  readonly #checkpoint: Checkpoint;
  readonly #mapped = new Map<string, ReturnType<Device["mapFile"]>>();
  #users = 0;

  constructor(dir: string) {
    this.config = readConfig(dir);
    this.#checkpoint = openCheckpoint(dir);
    this.#refuseLeftovers();
  }

  /** A layer or module that config.json does not call for would change the numbers by its absence. */
  #refuseLeftovers(): void {
    const known = new Set(tensorSpecs(this.config).map(({ name }) => name));
    for (const [name, { file }] of this.#checkpoint.tensors) {
      const harmless =
        name.endsWith("rotary_emb.inv_freq") || (name === "lm_head.weight" && this.config.tieWordEmbeddings);
      if (known.has(name) || harmless) continue;
      throw new FormatError(
        file.path,
        `holds ${name}, which config.json does not call for (${this.config.numHiddenLayers} layers, attention_bias ` +
          `${this.config.attentionBias}, mlp_bias ${this.config.mlpBias}, tie_word_embeddings ${this.config.tieWordEmbeddings})`,
      );
    }
  }

  dtypeOf(name: string, shape: readonly number[]): FloatDType {
    const found = this.#checkpoint.tensors.get(name);
    if (found === undefined)
      throw new FormatError(
        this.#checkpoint.dir,
        `the checkpoint has no tensor ${name}, which its config.json calls for`,
      );
    const { entry, file } = found;
    const dtype = floatTypes[entry.dtype];
    if (dtype === undefined) {
      throw new FormatError(file.path, `${name} is ${entry.dtype}; F32, F16 and BF16 weights can be read`);
    }
    if (entry.shape.length !== shape.length || entry.shape.some((n, i) => n !== shape[i])) {
      throw new FormatError(
        file.path,
        `${name} has shape [${entry.shape}], but config.json makes it [${shape}]`,
      );
    }
    return dtype;
  }

  #address(device: Device, name: string): { address: number; isDevice: boolean } {
    const { entry, file } = this.#checkpoint.tensors.get(name)!;
    let mapped = this.#mapped.get(file.path);
    if (mapped === undefined) {
      mapped = device.mapFile(file.path);
      this.#mapped.set(file.path, mapped);
    }
    if (entry.end > mapped.bytes)
      throw new FormatError(
        file.path,
        `${name} ends at byte ${entry.end}, but the file now has ${mapped.bytes}`,
      );
    return { address: mapped.address + entry.begin, isDevice: mapped.isDevice };
  }

  inPlace(device: Device, name: string, shape: readonly number[], dtype: FloatDType): Tensor | null {
    const bytes = dtype === "f32" ? 4 : 2;
    if (this.dtypeOf(name, shape) !== dtype) return null;
    const { address, isDevice } = this.#address(device, name);
    return isDevice && address % bytes === 0 ? new Tensor(address, dtype, shape) : null;
  }

  fill(device: Device, name: string, destination: Tensor): void {
    const stored = this.dtypeOf(name, destination.shape);
    const { address } = this.#address(device, name);
    const code = dtypeCode[destination.dtype as FloatDType];
    device.call("nt_upload", destination.ptr, code, address, dtypeCode[stored], destination.size);
  }

  tensorBytes(): { name: string; bytes: number }[] {
    return tensorSpecs(this.config).map(({ name }) => {
      const entry = this.#checkpoint.tensors.get(name)?.entry;
      return { name, bytes: entry === undefined ? 0 : entry.end - entry.begin };
    });
  }

  retain(): void {
    this.#users++;
  }

  release(device: Device): void {
    if (--this.#users > 0) return;
    for (const file of this.#mapped.values()) device.unmapFile(file);
    this.#mapped.clear();
  }
}

/** A Hugging Face model folder. Throws FormatError where config.json or the weights are not in order. */
export function checkpointSource(dir: string): ModelSource {
  return new CheckpointSource(dir);
}

class RandomSource implements ModelSource {
  readonly config: LlamaConfig;
  readonly #seed: number;
  readonly #draws = new Map<string, number>();

  constructor(config: LlamaConfig, seed: number) {
    this.config = config;
    this.#seed = seed;
  }

  dtypeOf(): FloatDType {
    return this.config.dtype ?? "f32";
  }

  inPlace(): null {
    return null;
  }

  fill(device: Device, name: string, destination: Tensor): void {
    if (destination.shape.length === 1) {
      const value = name.endsWith(".bias") ? 0 : 1;
      device.writeFloats(destination, new Float32Array(destination.size).fill(value));
      return;
    }
    // Draws from 2¹⁶ on: below are LoRA's.
    const draw = this.#draws.get(name) ?? 0x10000 + this.#draws.size;
    this.#draws.set(name, draw);
    random(device, destination, "normal", this.config.initializerRange, this.#seed, draw);
  }

  tensorBytes(): { name: string; bytes: number }[] {
    return [];
  }

  retain(): void {}

  release(): void {}
}

/** Random weights as Transformers initialises them: N(0, initializer_range), norms 1, biases 0. */
export function randomSource(config: LlamaConfig, seed = 0): ModelSource {
  return new RandomSource(config, seed);
}

/** Every tensor of a checkpoint with this config, in the order of the computation. */
export function tensorSpecs(config: LlamaConfig): { name: string; shape: number[] }[] {
  const { hiddenSize: H, intermediateSize: I, headDim } = config;
  const [Q, KV] = [config.numAttentionHeads * headDim, config.numKeyValueHeads * headDim];
  const specs: { name: string; shape: number[] }[] = [];
  const linear = (path: string, out: number, inputs: number, bias: boolean) => {
    specs.push({ name: `${path}.weight`, shape: [out, inputs] });
    if (bias) specs.push({ name: `${path}.bias`, shape: [out] });
  };
  specs.push({ name: "model.embed_tokens.weight", shape: [config.vocabSize, H] });
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const path = `model.layers.${layer}`;
    specs.push({ name: `${path}.input_layernorm.weight`, shape: [H] });
    linear(`${path}.self_attn.q_proj`, Q, H, config.attentionBias);
    linear(`${path}.self_attn.k_proj`, KV, H, config.attentionBias);
    linear(`${path}.self_attn.v_proj`, KV, H, config.attentionBias);
    linear(`${path}.self_attn.o_proj`, H, Q, config.attentionBias);
    specs.push({ name: `${path}.post_attention_layernorm.weight`, shape: [H] });
    linear(`${path}.mlp.gate_proj`, I, H, config.mlpBias);
    linear(`${path}.mlp.up_proj`, I, H, config.mlpBias);
    linear(`${path}.mlp.down_proj`, H, I, config.mlpBias);
  }
  specs.push({ name: "model.norm.weight", shape: [H] });
  if (!config.tieWordEmbeddings) specs.push({ name: "lm_head.weight", shape: [config.vocabSize, H] });
  return specs;
}
