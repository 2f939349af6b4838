// What a run is, as far as its numbers go: two runs of one identity compute the same, so one can go on with the
// other's checkpoint. Kept by name and not as one hash, so that a refusal can say what differs.

import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { contentHashOf, type SampleSource, samplesOf, sizesOf } from "../data/samples.ts";
import { UsageError } from "../errors.ts";
import { openCheckpoint } from "../formats/checkpoint.ts";
import { ioError } from "../formats/io.ts";
import { configToJson, targetNames } from "../model/index.ts";
import { type OptionEntry, optionKey, trainerEntries } from "../options/table.ts";
import type { ModelOrigin, TrainableModel } from "./model.ts";
import type { TrainerOptions } from "./options.ts";
import type { Schedule } from "./schedule.ts";

export type Identity = Readonly<Record<string, string | number | boolean | null>>;

export interface DatasetFingerprint {
  samples: number;
  tokens: number;
  targetTokens: number;
  /** Of all ids and labels in order. */
  sha256: string;
}

/** Tokenized samples, told apart by every id and label. */
export function fingerprintDataset(source: SampleSource): DatasetFingerprint {
  const samples = samplesOf(source);
  const { tokens, targets } = sizesOf(samples);
  const total = (sizes: Uint32Array) => sizes.reduce((sum, size) => sum + size, 0);
  return {
    samples: samples.length,
    tokens: total(tokens),
    targetTokens: total(targets),
    sha256: contentHashOf(samples),
  };
}

/**
 * A model, told apart by its config and, with a checkpoint, by its tensors' names, shapes and places and some of
 * each file's bytes: enough to tell a model from another of its shape without reading all of it.
 */
export function fingerprintModel(model: Pick<TrainableModel, "config">, origin: ModelOrigin | null): string {
  const hasher = new Bun.CryptoHasher("sha256");
  hasher.update(JSON.stringify(configToJson(model.config)));
  for (const file of origin === null ? [] : openCheckpoint(origin.dir).files) {
    for (const { name, dtype, shape, begin } of file.tensors.values()) {
      hasher.update(JSON.stringify([name, dtype, shape, begin]));
    }
    hasher.update(excerpts(file.path));
  }
  return hasher.digest("hex");
}

/** Pieces of a file from 16 places. */
function excerpts(path: string): Uint8Array {
  const [places, length] = [16, 4096];
  const bytes = new Uint8Array(places * length);
  try {
    const fd = openSync(path, "r");
    try {
      const { size } = fstatSync(fd);
      for (let i = 0; i < places; i++) {
        readSync(fd, bytes, i * length, length, Math.floor((Math.max(0, size - length) * i) / (places - 1)));
      }
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw ioError(path, "read", error);
  }
  return bytes;
}

/** The trainer's options that belong to the identity as they are. Others may differ on --resume, or stand below. */
export function ownValues(options: object, entries: readonly OptionEntry[] = trainerEntries): Identity {
  const values = options as Readonly<Record<string, Identity[string]>>;
  const identity: Record<string, Identity[string]> = {};
  for (const [name, spec] of entries) {
    const value = values[optionKey(name)] ?? null;
    if (spec.identity === "value") identity[`--${name}`] = value;
    if (spec.identity === "unless default") identity[`--${name}`] = value === spec.default ? null : value;
  }
  return identity;
}

export interface IdentityInput {
  options: TrainerOptions;
  model: TrainableModel;
  schedule: Schedule;
  modelFingerprint: string;
  startFingerprint: string | null;
  dataset: DatasetFingerprint;
  evalDataset: DatasetFingerprint | null;
}

export function makeIdentity(input: IdentityInput): Identity {
  const { options, schedule, model } = input;
  const { dtype, tune, lora, quantization } = model.options;
  const constant = options.lrSchedulerType.startsWith("constant");
  return {
    ...ownValues(options),
    "--batch-size times --gradient-accumulation-steps": options.batchSize * options.gradientAccumulationSteps,
    // The padded width is a micro-batch's, so the noise depends on its size.
    "--batch-size": options.neftLength === "padded" ? options.batchSize : null,
    "warm-up steps (--warmup-steps, --warmup-ratio)": schedule.warmupSteps,
    "steps in all (--epochs, --max-steps)": constant ? null : schedule.totalSteps,
    "--neft-scale": model.parameters?.part("noise").length ? "learned" : null,
    "--tune": tune,
    "--dtype": dtype,
    "--quantization": quantization ? "nf4" : null,
    "--double-quantization": quantization?.double ?? null,
    "--lora-r": lora?.r ?? null,
    "--lora-alpha": lora?.alpha ?? null,
    "--lora-dropout": lora?.dropout ?? null,
    "--target-modules": lora ? targetNames(lora).join(",") : null,
    "--use-rslora": lora?.useRslora ?? null,
    "the model (--model)": input.modelFingerprint,
    "the trained values' start (--adapter, --seed)": input.startFingerprint,
    "the data set's samples": input.dataset.samples,
    "the data set (--dataset and how it is read)": input.dataset.sha256,
    "the evaluation data set": input.evalDataset?.sha256 ?? null,
  };
}

/** What changes the last bits of a run's numbers and no more: how sums are split and computed. */
export function makeRounding(
  { packing, batchSize, gradientAccumulationSteps, microBatchTokens }: TrainerOptions,
  device: object,
  ranks = 1,
  isSharded = false,
): Identity {
  const info = device as Readonly<Record<string, unknown>>;
  const text = (value: unknown) => (value === undefined ? null : String(value));
  return {
    "--packing": packing,
    "--batch-size": batchSize,
    "--gradient-accumulation-steps": gradientAccumulationSteps,
    ...(microBatchTokens ? { "--micro-batch-tokens": microBatchTokens } : {}),
    backend: text(info.backend),
    "instruction set": text(info.isa),
    threads: text(info.threads),
    ...(ranks === 1 ? {} : { ranks }),
    ...(isSharded ? { "--shard": "optimizer" } : {}),
  };
}

/** Says what differs from the checkpoint's rounding, and what that means; null where nothing does. */
export function roundingNote(saved: Identity, current: Identity): string | null {
  const differences = differencesOf(saved, current);
  if (differences.length === 0) return null;
  return `--resume: ${differences.join("; ")}: the run continues, equal within float32 tolerance but not bit for bit`;
}

/** Throws a UsageError that names every difference between a checkpoint's identity and this run's. */
export function expectSameIdentity(checkpoint: string, saved: Identity, current: Identity): void {
  const differences = differencesOf(saved, current);
  if (differences.length === 0) return;
  throw new UsageError(
    `--resume: ${checkpoint} belongs to a different run: ${differences.join("; ")}. ` +
      "Give the options that run had, or another --output to start a new run",
  );
}

function differencesOf(saved: Identity, current: Identity): string[] {
  const show = (value: Identity[string] | undefined) =>
    typeof value === "string" && value.length === 64 ? `${value.slice(0, 12)}…` : String(value ?? "none");
  const names = [...new Set([...Object.keys(saved), ...Object.keys(current)])];
  return names
    .filter((name) => (saved[name] ?? null) !== (current[name] ?? null))
    .map((name) => `${name} was ${show(saved[name])}, is now ${show(current[name])}`);
}

/** LoRA's starting values: told apart by all their bits. Fully trained ones are the model's own. */
export function fingerprintStart(model: TrainableModel): string | null {
  if (model.parameters === null || model.options.tune === "full") return null;
  const hasher = new Bun.CryptoHasher("sha256");
  for (const { name } of model.parameters.tensors) hasher.update(name).update(model.parameters.read(name));
  return hasher.digest("hex");
}
