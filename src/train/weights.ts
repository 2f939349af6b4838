// Trained values to and from files: PEFT adapters, whole models, AdamW's moments. One tensor is held at a time.

import { copyFileSync, existsSync } from "node:fs";
import { join } from "node:path";
import { FormatError } from "../errors.ts";
import { openCheckpoint, writeShards } from "../formats/checkpoint.ts";
import { ioError, writeTextAtomically } from "../formats/io.ts";
import {
  ADAPTER_CONFIG_FILE,
  ADAPTER_WEIGHTS_FILE,
  type Adapter,
  writeAdapterConfig,
} from "../formats/peft.ts";
import {
  readSafetensorsHeader,
  readTensorData,
  type SafetensorsHeader,
  type TensorSource,
  writeSafetensors,
} from "../formats/safetensors.ts";
import {
  configToJson,
  type LinearModule,
  type LoraOptions,
  linearModules,
  type ParameterTensor,
  type StateKind,
} from "../model/index.ts";
import { loraOf, type ModelOrigin, type TrainableModel, type TrainedParameters } from "./model.ts";

type FloatDType = "f32" | "bf16" | "f16";

const PEFT_PREFIX = "base_model.model.";
const OPTIMIZER_FILE = "optimizer.safetensors";
/** As huggingface_hub splits models. */
const MAX_SHARD_BYTES = 5e9;

/** What a Hugging Face model folder may hold beside its weights, and a fine-tuned copy needs as well. */
const COMPANIONS = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "tokenizer.model",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "chat_template.json",
];

/** Float32 values as the little-endian bytes of another float type, rounded to nearest even. */
export function encodeFloats(values: Float32Array<ArrayBuffer>, dtype: FloatDType): Uint8Array {
  if (dtype === "f32") return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  if (dtype === "f16") return new Uint8Array(new Float16Array(values).buffer);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i]!;
    const quiet = (word & 0x7fffffff) > 0x7f800000;
    halves[i] = quiet ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return new Uint8Array(halves.buffer);
}

/** The tensor as float32; F16 and BF16 are widened. Throws FormatError for another dtype or shape. */
function readFloats(file: SafetensorsHeader, name: string, shape: readonly number[]): Float32Array {
  const entry = file.tensors.get(name);
  if (entry === undefined)
    throw new FormatError(file.path, `there is no tensor ${name}, which the model needs`);
  if (entry.shape.length !== shape.length || entry.shape.some((n, i) => n !== shape[i])) {
    throw new FormatError(file.path, `${name} has shape [${entry.shape}], but the model needs [${shape}]`);
  }
  const bytes = readTensorData(file, name);
  switch (entry.dtype) {
    case "F32":
      return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    case "F16":
      return new Float32Array(new Float16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2));
    case "BF16": {
      const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
      return new Float32Array(Uint32Array.from(halves, (half) => (half << 16) >>> 0).buffer);
    }
    default:
      throw new FormatError(file.path, `${name} is ${entry.dtype}; expected F32, F16 or BF16`);
  }
}

const dtypeNames = { f32: "F32", bf16: "BF16", f16: "F16" } as const;

function sources(
  parameters: TrainedParameters,
  nameOf: (tensor: ParameterTensor) => string,
  kind: StateKind = "values",
  dtype: FloatDType = "f32",
): TensorSource[] {
  return parameters.tensors.map((tensor) => ({
    name: nameOf(tensor),
    dtype: dtypeNames[dtype],
    shape: tensor.shape,
    data: () => encodeFloats(parameters.read(tensor.name, kind), dtype),
  }));
}

/** Writes a PEFT adapter into `dir`: float32, as PEFT does. The config comes last and makes it whole. */
export function writeAdapter(
  dir: string,
  parameters: TrainedParameters,
  lora: LoraOptions,
  baseModel: string | null,
): void {
  const tensors = sources(parameters, ({ name }) => PEFT_PREFIX + name);
  writeSafetensors(join(dir, ADAPTER_WEIGHTS_FILE), tensors, { format: "pt" });
  writeAdapterConfig(join(dir, ADAPTER_CONFIG_FILE), {
    r: lora.r,
    loraAlpha: lora.alpha,
    loraDropout: lora.dropout,
    targetModules: lora.targetModules,
    useRslora: lora.useRslora,
    baseModel,
  });
}

/**
 * The LoRA options that an adapter was trained with. PEFT names modules in several ways (lists, patterns,
 * "all-linear"); which ones it adapts is read off its tensors. Throws FormatError for a tensor that is no LoRA matrix
 * of a Llama's linear.
 */
export function adapterLoraOptions({ config, weights }: Adapter, dropout = 0): LoraOptions {
  const pattern = /^base_model\.model\.model\.layers\.\d+\.(?:self_attn|mlp)\.(\w+)\.lora_[AB]\.weight$/;
  const found = new Set<string>();
  for (const name of weights.tensors.keys()) {
    const module = pattern.exec(name)?.[1];
    if (module === undefined || !linearModules.includes(module as LinearModule)) {
      throw new FormatError(weights.path, `${name} is no LoRA matrix of ${linearModules.join(", ")}`);
    }
    found.add(module);
  }
  const targetModules = linearModules.filter((module) => found.has(module));
  return { r: config.r, alpha: config.loraAlpha, dropout, targetModules, useRslora: config.useRslora };
}

/** Puts an adapter's values into a model that was loaded with its adapterLoraOptions. Throws FormatError. */
export function loadAdapter(parameters: TrainedParameters, { weights }: Adapter): void {
  for (const { name, shape } of parameters.tensors) {
    parameters.write(name, readFloats(weights, PEFT_PREFIX + name, shape));
  }
  const known = new Set(parameters.tensors.map(({ name }) => PEFT_PREFIX + name));
  for (const name of weights.tensors.keys()) {
    if (!known.has(name))
      throw new FormatError(weights.path, `${name} has no place in this model; is it the adapter's base?`);
  }
  parameters.afterWrite();
}

/**
 * Writes a fully trained model into `dir`: shards of at most 5 GB in `dtype`, after the base's config and tokenizer
 * (without a base, a config of the model's own).
 */
export function writeModel(
  dir: string,
  model: TrainableModel,
  parameters: TrainedParameters,
  origin: ModelOrigin | null,
  dtype: FloatDType,
): void {
  if (origin === null) {
    const config = configToJson({ ...model.config, dtype });
    writeTextAtomically(join(dir, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
  }
  for (const name of origin === null ? [] : COMPANIONS) {
    const from = join(origin!.dir, name);
    try {
      if (existsSync(from)) copyFileSync(from, join(dir, name));
    } catch (error) {
      throw ioError(join(dir, name), "write", error);
    }
  }
  writeShards(
    dir,
    sources(parameters, ({ name }) => name, "values", dtype),
    MAX_SHARD_BYTES,
    { format: "pt" },
  );
}

/** Writes what a run needs to go on to the same bits: trained values and AdamW's moments, all float32. */
export function writeTrainingState(
  dir: string,
  model: TrainableModel,
  parameters: TrainedParameters,
  origin: ModelOrigin | null,
): void {
  const lora = loraOf(model);
  if (lora !== null) writeAdapter(dir, parameters, lora, origin?.name ?? null);
  else
    writeShards(
      dir,
      sources(parameters, ({ name }) => name),
      MAX_SHARD_BYTES,
      { format: "pt" },
    );
  const moments = moment.flatMap((kind) => sources(parameters, ({ name }) => `${kind}.${name}`, kind));
  writeSafetensors(join(dir, OPTIMIZER_FILE), moments);
}

const moment = ["m", "v"] as const;

/** Reads back what writeTrainingState wrote. Throws FormatError where a tensor is missing or of another shape. */
export function readTrainingState(dir: string, model: TrainableModel, parameters: TrainedParameters): void {
  const isLora = loraOf(model) !== null;
  const adapter = isLora ? readSafetensorsHeader(join(dir, ADAPTER_WEIGHTS_FILE)) : null;
  const shards = isLora ? null : openCheckpoint(dir).tensors;
  const moments = readSafetensorsHeader(join(dir, OPTIMIZER_FILE));
  for (const { name, shape } of parameters.tensors) {
    const file = adapter ?? shards?.get(name)?.file;
    if (file === undefined) throw new FormatError(dir, `there is no tensor ${name}, which the model needs`);
    parameters.write(name, readFloats(file, isLora ? PEFT_PREFIX + name : name, shape));
    for (const kind of moment) parameters.write(name, readFloats(moments, `${kind}.${name}`, shape), kind);
  }
  parameters.afterWrite();
}
