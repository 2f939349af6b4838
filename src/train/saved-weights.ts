// Trained values to and from files: PEFT adapters, whole models, AdamW's moments. One tensor is held at a time.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { FormatError, NeftuneError } from "../errors.ts";
import { encodeFloats, type FloatDType, floatTypes } from "../floats.ts";
import { openCheckpoint, writeShards } from "../formats/checkpoint.ts";
import { writeTextAtomically } from "../formats/io.ts";
import {
  COMPANIONS,
  CONFIG_FILE,
  copyConfig,
  copyPresent,
  MAX_SHARD_BYTES,
  withWeights,
} from "../formats/model-folder.ts";
import {
  ADAPTER_CONFIG_FILE,
  ADAPTER_WEIGHTS_FILE,
  openAdapter,
  writeAdapterConfig,
} from "../formats/peft.ts";
import {
  countNonFiniteBytes,
  readSafetensorsHeader,
  readTensorData,
  type SafetensorsHeader,
  type TensorSource,
  writeSafetensors,
} from "../formats/safetensors.ts";
import {
  adapterTensors,
  configToJson,
  type LoraOptions,
  type ParameterTensor,
  type StateTensor,
  targetNames,
} from "../model/index.ts";
import {
  loraOf,
  type ModelOrigin,
  type TrainableModel,
  type TrainedParameters,
  type TrainedValues,
} from "./model.ts";
import type { TrainerOptions } from "./options.ts";

const OPTIMIZER_FILE = "optimizer.safetensors";
const NOISE_SCALE_FILE = "neft_scale.safetensors";

/** The file of a tensor, float32 if nothing else is said. Throws FormatError where it is missing or another one. */
function expectStored(
  path: string,
  file: SafetensorsHeader | undefined,
  name: string,
  shape: readonly number[],
  dtype: StateTensor["dtype"] = "F32",
): SafetensorsHeader {
  const entry = file?.tensors.get(name);
  if (file === undefined || entry === undefined) throw new FormatError(path, `there is no tensor ${name}`);
  if (
    entry.dtype !== dtype ||
    entry.shape.length !== shape.length ||
    entry.shape.some((n, i) => n !== shape[i])
  ) {
    throw new FormatError(
      file.path,
      `${name} is ${entry.dtype} [${entry.shape}]; this run needs ${dtype} [${shape}]`,
    );
  }
  return file;
}

function readFloats(...tensor: Parameters<typeof expectStored>): Float32Array {
  const bytes = readTensorData(expectStored(...tensor), tensor[2]);
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

function sources(
  parameters: TrainedValues,
  tensors: readonly ParameterTensor[],
  dtype: FloatDType = "f32",
): TensorSource[] {
  return tensors.map((tensor) => ({
    name: tensor.name,
    dtype: floatTypes[dtype].safetensors,
    shape: tensor.shape,
    data: () => expectHeld(tensor.name, dtype, encodeFloats(parameters.read(tensor.name), dtype)),
  }));
}

/** Finite float32 values may be beyond what the file's dtype holds. */
function expectHeld(name: string, dtype: FloatDType, bytes: Uint8Array): Uint8Array {
  const count = dtype === "f32" ? 0 : countNonFiniteBytes(floatTypes[dtype].safetensors, bytes);
  if (count === 0) return bytes;
  throw new NeftuneError(
    "data",
    `${name}: ${count.toLocaleString("en")} trained values are beyond ${dtype}'s range, so the model cannot be saved in it; give --save-dtype f32 (with --resume nothing is trained again)`,
  );
}

/** Writes a PEFT adapter into `dir`: float32, as PEFT does. The config comes last and makes it whole. */
function writeAdapter(
  dir: string,
  parameters: TrainedValues,
  lora: LoraOptions,
  baseModel: string | null,
): void {
  writeSafetensors(join(dir, ADAPTER_WEIGHTS_FILE), adapterTensors(parameters), { format: "pt" });
  writeAdapterConfig(join(dir, ADAPTER_CONFIG_FILE), {
    r: lora.r,
    loraAlpha: lora.alpha,
    loraDropout: lora.dropout,
    targetModules: targetNames(lora),
    useRslora: lora.useRslora,
    baseModel,
  });
}

/** What a fully trained model is stored in. */
export function savedDtype(
  { saveDtype }: Pick<TrainerOptions, "saveDtype">,
  { dtype }: Pick<TrainableModel["config"], "dtype">,
): FloatDType {
  return saveDtype === "auto" ? (dtype ?? "f32") : saveDtype;
}

/**
 * Writes a fully trained model into `dir`: shards of at most 5 GB in `dtype`, after the base's config and tokenizer
 * (without a base, a config of the model's own).
 */
function writeModel(
  dir: string,
  model: TrainableModel,
  parameters: TrainedValues,
  origin: ModelOrigin | null,
  dtype: FloatDType,
): void {
  if (origin === null) {
    const config = configToJson({ ...model.config, dtype });
    writeTextAtomically(join(dir, CONFIG_FILE), `${JSON.stringify(config, null, 2)}\n`);
  } else {
    const { tieWordEmbeddings: isTied } = model.config;
    copyPresent(origin.dir, dir, COMPANIONS);
    copyConfig(origin.dir, dir, (config) => withWeights(config, { dtype, isTied }));
  }
  writeShards(dir, sources(parameters, parameters.part("weights"), dtype), MAX_SHARD_BYTES, { format: "pt" });
}

/**
 * Writes what a run needs to go on to the same bits: trained values in float32 and AdamW's moments as they are kept. Without the moments
 * (`hasMoments` false) the values can be used, and no run can go on.
 */
export function writeTrainingState(
  dir: string,
  model: TrainableModel,
  parameters: TrainedValues,
  origin: ModelOrigin | null,
  hasMoments = true,
): void {
  const lora = loraOf(model);
  if (lora !== null) writeAdapter(dir, parameters, lora, origin?.name ?? null);
  else
    writeShards(dir, sources(parameters, parameters.part("weights")), MAX_SHARD_BYTES, {
      format: "pt",
    });
  writeNoiseScale(dir, parameters);
  if (!hasMoments) return;
  const moments = parameters.stateTensors.map((tensor) => ({
    ...tensor,
    data: () => parameters.readState(tensor.name),
  }));
  writeSafetensors(join(dir, OPTIMIZER_FILE), moments);
}

/** Writes the learned scale of the noise, float32 [H], beside the model that it was trained with; nothing where there is none. */
function writeNoiseScale(dir: string, parameters: TrainedValues): void {
  const scale = parameters.part("noise");
  if (scale.length > 0)
    writeSafetensors(join(dir, NOISE_SCALE_FILE), sources(parameters, scale), { format: "pt" });
}

/** A run's product: the adapter, or with tune "full" the model. */
export function writeResult(
  dir: string,
  model: TrainableModel,
  parameters: TrainedValues,
  origin: ModelOrigin | null,
  options: TrainerOptions,
): void {
  const lora = loraOf(model);
  if (lora === null) writeModel(dir, model, parameters, origin, savedDtype(options, model.config));
  else writeAdapter(dir, parameters, lora, origin?.name ?? null);
  writeNoiseScale(dir, parameters);
}

/** Trained values to be written: `expectOurs` looks for their folder before each tensor, as writing may take minutes. */
export function watchedValues(parameters: TrainedParameters, expectOurs: () => void): TrainedValues {
  const watched =
    <A extends unknown[], R>(read: (...which: A) => R) =>
    (...which: A): R => {
      expectOurs();
      return read(...which);
    };
  return {
    tensors: parameters.tensors,
    part: (name) => parameters.part(name),
    read: watched((name: string) => parameters.read(name)),
    stateTensors: parameters.stateTensors,
    readState: watched((name: string) => parameters.readState(name)),
  };
}

/** The file of each trained tensor in a checkpoint, and its name there. */
function storedTensors(dir: string, model: TrainableModel, parameters: TrainedParameters) {
  const isFull = loraOf(model) === null;
  const weights = isFull ? openCheckpoint(dir).tensors : null;
  const adapter = isFull ? null : openAdapter(dir).weights;
  const names = new Map(
    adapterTensors(parameters).map(({ name }, i) => [parameters.part("lora")[i]!.name, name]),
  );
  const hasScale = parameters.part("noise").length > 0;
  const scale = hasScale ? readSafetensorsHeader(join(dir, NOISE_SCALE_FILE)) : undefined;
  return parameters.tensors.map(({ name, part, shape }) => {
    const file = part === "noise" ? scale : (adapter ?? weights?.get(name)?.file);
    return { name, shape, stored: names.get(name) ?? name, path: file?.path ?? dir, file };
  });
}

/**
 * Checks from the headers alone that what writeTrainingState wrote is all there; a header is checked against the
 * size of its file. Throws FormatError or NeftuneError.
 */
export function checkTrainingState(dir: string, model: TrainableModel, parameters: TrainedParameters): void {
  const optimizer = join(dir, OPTIMIZER_FILE);
  if (!existsSync(optimizer)) {
    throw new FormatError(
      dir,
      `has no ${OPTIMIZER_FILE}, so that no run can continue from it; it is damaged, or was saved with --save-only-model`,
    );
  }
  for (const { shape, stored, path, file } of storedTensors(dir, model, parameters))
    expectStored(path, file, stored, shape);
  storedState(dir, parameters);
}

/** Reads the trained values alone of what writeTrainingState wrote. Throws FormatError. */
export function readTrainedValues(dir: string, model: TrainableModel, parameters: TrainedParameters): void {
  for (const { name, shape, stored, path, file } of storedTensors(dir, model, parameters))
    parameters.write(name, readFloats(path, file, stored, shape));
  parameters.afterWrite();
}

/** The state's tensors, and the file with all of them. */
function storedState(dir: string, { stateTensors }: TrainedParameters) {
  const path = join(dir, OPTIMIZER_FILE);
  const file = readSafetensorsHeader(path);
  for (const { name, shape, dtype } of stateTensors) expectStored(path, file, name, shape, dtype);
  return { stateTensors, file };
}

/** Reads back what writeTrainingState wrote. Throws FormatError where a tensor is missing or of another shape. */
export function readTrainingState(dir: string, model: TrainableModel, parameters: TrainedParameters): void {
  readTrainedValues(dir, model, parameters);
  const { stateTensors, file } = storedState(dir, parameters);
  for (const { name } of stateTensors) parameters.writeState(name, readTensorData(file, name));
}
