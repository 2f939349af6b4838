// Where a model's starting weights come from: a checkpoint's mapped files, plain or in NF4, or random numbers.

import { FormatError, NeftuneError } from "../errors.ts";
import { type FloatDType, floatTypeNamed, floatTypes } from "../floats.ts";
import type { Checkpoint, CheckpointTensor } from "../formats/checkpoint.ts";
import { type Nf4Stored, nf4Entries, nf4WeightOf } from "../formats/nf4.ts";
import type { SafetensorsHeader } from "../formats/safetensors.ts";
import { copyToDevice, type Device, type Nf4, random, Tensor, upload } from "../native/index.ts";
import { tensorSpecs } from "./architecture.ts";
import type { LlamaConfig } from "./config.ts";
import { openModelCheckpoint } from "./model-checkpoint.ts";

export interface ModelSource {
  readonly config: LlamaConfig;
  /** Some of the weights are stored in NF4: then each is used as it is stored. */
  readonly isQuantized: boolean;
  /** The dtype of a tensor, or what it had before it was quantized; throws where it is missing or has another shape. */
  dtypeOf(name: string, shape: readonly number[]): FloatDType;
  /** The tensor where it lies, if the device can use it there and it has this dtype; else null. */
  inPlace(device: Device, name: string, shape: readonly number[], dtype: FloatDType): Tensor | null;
  /** Fills `destination` with the tensor, converted. */
  fill(device: Device, name: string, destination: Tensor): void;
  /** What is to be known of a tensor stored in NF4 before it is loaded; null where it is plain. Throws as dtypeOf. */
  storedNf4(name: string, shape: readonly number[]): { double: boolean } | null;
  /** Fills `destination` with a tensor stored in NF4. */
  fillNf4(device: Device, name: string, destination: Nf4): void;
  /** To call when a tensor has been filled from: it need not stay in memory where it lies. */
  forget(device: Device, name: string): void;
  /** Names and stored bytes of the tensors that the config calls for. */
  tensorBytes(): { name: string; bytes: number }[];
  /** Takes part in the source's use by a model; the last release() unmaps what was mapped. */
  retain(): void;
  release(device: Device): void;
}

/** A model's folder as a source. */
export interface FolderSource extends ModelSource {
  /** Of the folder; tensors under the names that the model has, as tensorSpecs gives them. */
  readonly checkpoint: Checkpoint;
  /** What a person should know of how the folder was read. */
  readonly notes: readonly string[];
}

class CheckpointSource implements FolderSource {
  readonly config: LlamaConfig;
  readonly checkpoint: Checkpoint;
  readonly notes: readonly string[];
  readonly isQuantized: boolean;
  readonly #dir: string;
  readonly #tensors: ReadonlyMap<string, CheckpointTensor>;
  /** Of the linears that are stored in NF4, by name. */
  readonly #quantized = new Map<string, Nf4Stored>();
  readonly #mapped = new Map<string, ReturnType<Device["mapFile"]>>();
  #users = 0;

  constructor(dir: string, quantized: SafetensorsHeader | null) {
    const { config, notes, ...checkpoint } = openModelCheckpoint(dir);
    this.config = config;
    this.checkpoint = checkpoint;
    this.notes = notes;
    this.#dir = dir;
    const tensors = new Map(checkpoint.tensors);
    for (const [name, entry] of quantized?.tensors ?? []) tensors.set(name, { file: quantized!, entry });
    this.#tensors = tensors;
    for (const { name } of tensorSpecs(this.config)) {
      const stored = nf4Entries({ tensors }, name);
      if (stored !== null) this.#quantized.set(name, stored);
    }
    this.isQuantized = this.#quantized.size > 0;
    if (this.config.quantization !== null && !this.isQuantized) {
      throw new FormatError(
        dir,
        "config.json says that the linears are in NF4, but the weights are plain; take its quantization_config out (--quantization nf4 quantizes them)",
      );
    }
    for (const { name, shape } of tensorSpecs(this.config)) this.dtypeOf(name, shape);
    this.#refuseLeftovers();
  }

  /** A layer or module that config.json does not call for would change the numbers by its absence. */
  #refuseLeftovers(): void {
    const known = new Set(tensorSpecs(this.config).map(({ name }) => name));
    for (const [name, { file }] of this.#tensors) {
      const harmless = name.endsWith("rotary_emb.inv_freq") || this.#quantized.has(nf4WeightOf(name) ?? "");
      if (known.has(name) || harmless) continue;
      throw new FormatError(
        file.path,
        `holds ${name}, which config.json does not call for (${this.config.numHiddenLayers} layers, attention_bias ` +
          `${this.config.attentionBias}, mlp_bias ${this.config.mlpBias}, tie_word_embeddings ${this.config.tieWordEmbeddings})`,
      );
    }
  }

  dtypeOf(name: string, shape: readonly number[]): FloatDType {
    const found = this.#tensors.get(name);
    if (found === undefined)
      throw new FormatError(
        this.#dir,
        `the checkpoint has no tensor ${name}, which its config.json calls for`,
      );
    const { entry, file } = found;
    const quantized = this.#quantized.get(name);
    const dtype = quantized?.dtype ?? floatTypeNamed("safetensors", entry.dtype);
    if (dtype === null) {
      throw new FormatError(file.path, `${name} is ${entry.dtype}; F32, F16 and BF16 weights can be read`);
    }
    const stored: readonly number[] = quantized?.shape ?? entry.shape;
    if (stored.length !== shape.length || stored.some((n, i) => n !== shape[i])) {
      throw new FormatError(file.path, `${name} has shape [${stored}], but config.json makes it [${shape}]`);
    }
    return dtype;
  }

  #address(device: Device, { entry, file }: CheckpointTensor): { address: number; isDevice: boolean } {
    let mapped = this.#mapped.get(file.path);
    if (mapped === undefined) {
      mapped = device.mapFile(file.path);
      this.#mapped.set(file.path, mapped);
    }
    if (entry.end > mapped.bytes)
      throw new FormatError(
        file.path,
        `${entry.name} ends at byte ${entry.end}, but the file now has ${mapped.bytes}`,
      );
    return { address: mapped.address + entry.begin, isDevice: mapped.isDevice };
  }

  inPlace(device: Device, name: string, shape: readonly number[], dtype: FloatDType): Tensor | null {
    if (this.dtypeOf(name, shape) !== dtype || this.#quantized.has(name)) return null;
    const { address, isDevice } = this.#address(device, this.#tensors.get(name)!);
    return isDevice && address % floatTypes[dtype].bytes === 0 ? new Tensor(address, dtype, shape) : null;
  }

  fill(device: Device, name: string, destination: Tensor): void {
    const stored = this.dtypeOf(name, destination.shape);
    if (this.#quantized.has(name))
      throw new FormatError(this.#dir, `${name} is quantized; in NF4 only the linears of the layers can be`);
    const { address } = this.#address(device, this.#tensors.get(name)!);
    upload(device, destination, address, stored);
  }

  storedNf4(name: string, shape: readonly number[]): { double: boolean } | null {
    this.dtypeOf(name, shape);
    const stored = this.#quantized.get(name);
    return stored === undefined ? null : { double: stored.nested !== null };
  }

  fillNf4(device: Device, name: string, { codes, absmax, absmax2 }: Nf4): void {
    const stored = this.#quantized.get(name)!;
    const copy = (to: Tensor, from: CheckpointTensor) => {
      const { address } = this.#address(device, from);
      copyToDevice(device, to, address, from.entry.end - from.entry.begin);
    };
    copy(codes, stored.codes);
    copy(absmax, stored.absmax);
    if (stored.nested === null || absmax2 === null) return;
    copy(absmax2, stored.nested.absmax);
    device.write(absmax2.rows(absmax2.size - 1, 1), Float32Array.of(stored.nested.offset));
  }

  forget(device: Device, name: string): void {
    const { entry, file } = this.#tensors.get(name)!;
    const mapped = this.#mapped.get(file.path);
    if (mapped !== undefined) device.forgetFile(mapped.address + entry.begin, entry.end - entry.begin);
  }

  tensorBytes(): { name: string; bytes: number }[] {
    return tensorSpecs(this.config).map(({ name }) => {
      const entry = this.#tensors.get(name)?.entry;
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

/**
 * A Hugging Face model folder. Throws FormatError where config.json or a weight's name, shape or dtype is not in order. `quantized`: a file
 * whose NF4 weights take the place of the folder's own (quantized-cache.ts).
 */
export function checkpointSource(dir: string, quantized: SafetensorsHeader | null = null): FolderSource {
  return new CheckpointSource(dir, quantized);
}

class RandomSource implements ModelSource {
  readonly config: LlamaConfig;
  readonly isQuantized = false;
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

  storedNf4(): null {
    return null;
  }

  fillNf4(): void {
    throw new NeftuneError("model", "random weights are not stored in NF4");
  }

  forget(): void {}

  tensorBytes(): { name: string; bytes: number }[] {
    return [];
  }

  retain(): void {}

  release(): void {}
}

/** Random weights as Transformers initializes them: N(0, initializer_range), norms 1, biases 0. */
export function randomSource(config: LlamaConfig, seed = 0): ModelSource {
  return new RandomSource(config, seed);
}
