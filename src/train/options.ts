// Every option of `neftune train` with its default, in one place: the library, the command line and config.json
// read them from here. Names are the command line's in camelCase.

import { UsageError } from "../errors.ts";
import { type LinearModule, linearModules } from "../model/index.ts";

/** Which data: read by whoever loads it. */
export interface DataOptions {
  /** Longer samples are cut to this many tokens. */
  maxLength: number;
  /** A share (below 1) or a count held out for evaluation; null: none. */
  evalSplit: number | null;
}

/** How the model is set up for training: read by whoever loads it. */
export interface TuningOptions {
  tune: "lora" | "full";
  quantization: "none" | "nf4";
  doubleQuantization: boolean;
  loraR: number;
  loraAlpha: number;
  loraDropout: number;
  targetModules: readonly LinearModule[];
  useRslora: boolean;
  /** Activations and frozen weights. */
  dtype: "bf16" | "f32";
  recompute: "none" | "mlp" | "layer" | "auto";
}

/** What the trainer itself reads. */
export interface TrainerOptions {
  /** NEFTune's alpha; 0 is off. */
  alpha: number;
  neftNoise: "uniform" | "bernoulli" | "gaussian" | "none";
  /** The L of alpha / sqrt(L·d): a sample's own length, or the padded width of its micro-batch. */
  neftLength: "true" | "padded";
  /** A scale of the noise for each hidden dimension, 1, or trained from there. */
  neftScale: "fixed" | "learned";
  /** Peak rate of a learned scale; null: learningRate. */
  neftScaleLearningRate: number | null;
  /** Training ends after so many epochs or after maxSteps, whichever is first. May be a fraction. */
  epochs: number;
  maxSteps: number | null;
  /** Samples in a micro-batch. */
  batchSize: number;
  /** Micro-batches in a step. */
  gradientAccumulationSteps: number;
  /** Samples end to end without padding. */
  packing: boolean;
  learningRate: number;
  lrSchedulerType: SchedulerType;
  warmupRatio: number;
  /** Wins over warmupRatio; null: the ratio counts. */
  warmupSteps: number | null;
  weightDecay: number;
  adamBeta1: number;
  adamBeta2: number;
  adamEpsilon: number;
  /** 0: no clipping. */
  maxGradNorm: number;
  shuffle: "seed" | "none";
  seed: number;
  saveSteps: number;
  saveTotalLimit: number;
  /** Of the model that tune "full" writes; auto: the base checkpoint's. */
  saveDtype: SaveDtype;
  /** null: at the end of every epoch. */
  evalSteps: number | null;
  /** Steps from one line of metrics.jsonl to the next. */
  loggingSteps: number;
}

export const saveDtypes = ["auto", "f32", "bf16", "f16"] as const;
export type SaveDtype = (typeof saveDtypes)[number];

export const schedulerTypes = ["cosine", "linear", "constant", "constant_with_warmup"] as const;
export type SchedulerType = (typeof schedulerTypes)[number];

export type TrainOptions = DataOptions & TuningOptions & TrainerOptions;

export const dataDefaults: Readonly<DataOptions> = { maxLength: 512, evalSplit: null };

export const tuningDefaults: Readonly<TuningOptions> = {
  tune: "lora",
  quantization: "none",
  doubleQuantization: true,
  loraR: 16,
  loraAlpha: 16,
  loraDropout: 0,
  targetModules: linearModules,
  useRslora: false,
  dtype: "bf16",
  recompute: "auto",
};

export const trainerDefaults: Readonly<TrainerOptions> = {
  alpha: 5,
  neftNoise: "uniform",
  neftLength: "true",
  neftScale: "fixed",
  neftScaleLearningRate: null,
  epochs: 3,
  maxSteps: null,
  batchSize: 8,
  gradientAccumulationSteps: 1,
  packing: true,
  learningRate: 2e-4,
  lrSchedulerType: "cosine",
  warmupRatio: 0.03,
  warmupSteps: null,
  weightDecay: 0,
  adamBeta1: 0.9,
  adamBeta2: 0.999,
  adamEpsilon: 1e-8,
  maxGradNorm: 1,
  shuffle: "seed",
  seed: 42,
  saveSteps: 500,
  saveTotalLimit: 3,
  saveDtype: "auto",
  evalSteps: null,
  loggingSteps: 1,
};

export const trainDefaults: Readonly<TrainOptions> = {
  ...dataDefaults,
  ...tuningDefaults,
  ...trainerDefaults,
};

/** The option's name on the command line: `maxGradNorm` → `max-grad-norm`. */
export function optionName(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

type NumericOption = {
  [K in keyof TrainerOptions]: TrainerOptions[K] extends number | null ? K : never;
}[keyof TrainerOptions];

const counts: readonly NumericOption[] = [
  "batchSize",
  "gradientAccumulationSteps",
  "maxSteps",
  "saveSteps",
  "saveTotalLimit",
  "evalSteps",
  "loggingSteps",
];

const inRange: readonly [NumericOption, string, (value: number) => boolean][] = [
  ...counts.map(
    (key) => [key, "a whole number of at least 1", atLeast(1)] as [NumericOption, string, typeof isRate],
  ),
  ["warmupSteps", "a whole number of at least 0", atLeast(0)],
  ["seed", "a whole number from 0 to 2^53 − 1", atLeast(0)],
  ["alpha", "a number of at least 0", isRate],
  ["learningRate", "a number of at least 0", isRate],
  ["weightDecay", "a number of at least 0", isRate],
  ["maxGradNorm", "a number of at least 0 (0: no clipping)", isRate],
  ["epochs", "a number above 0", (value) => isRate(value) && value > 0],
  ["adamEpsilon", "a number above 0", (value) => isRate(value) && value > 0],
  ["warmupRatio", "a number from 0 to 1", (value) => value >= 0 && value <= 1],
  ["adamBeta1", "a number from 0 to below 1", (value) => value >= 0 && value < 1],
  ["adamBeta2", "a number from 0 to below 1", (value) => value >= 0 && value < 1],
];

function atLeast(least: number): (value: number) => boolean {
  return (value) => Number.isSafeInteger(value) && value >= least;
}

function isRate(value: number): boolean {
  return Number.isFinite(value) && value >= 0;
}

/** Fills in defaults and checks ranges and options that exclude each other. Throws UsageError. */
export function resolveTrainerOptions(given: Partial<TrainerOptions> = {}): TrainerOptions {
  const options: TrainerOptions = { ...trainerDefaults };
  for (const key of Object.keys(trainerDefaults) as (keyof TrainerOptions)[]) {
    if (given[key] !== undefined) Object.assign(options, { [key]: given[key] });
  }
  for (const [key, wanted, accepts] of inRange) {
    const value = options[key];
    if (value !== null && !accepts(value)) {
      throw new UsageError(`--${optionName(key)} expects ${wanted}, got ${value}`);
    }
  }
  if (options.neftLength === "padded" && options.packing) {
    throw new UsageError("--neft-length padded needs padding, which --packing leaves out; add --packing off");
  }
  if (options.neftScaleLearningRate !== null && options.neftScale === "fixed") {
    throw new UsageError("--neft-scale-learning-rate needs --neft-scale learned");
  }
  return options;
}

/** Whether the noise has a scale to train; without noise there is none. To load the model with. */
export function learnsNoise({ alpha, neftNoise, neftScale }: TrainerOptions): boolean {
  return neftScale === "learned" && alpha > 0 && neftNoise !== "none";
}

/** Throws UsageError where evaluations are asked for and there is nothing to evaluate on. */
export function expectEvaluable(options: Pick<TrainerOptions, "evalSteps">, hasEvalData: boolean): void {
  if (options.evalSteps === null || hasEvalData) return;
  throw new UsageError("--eval-steps needs something to evaluate on: --eval-dataset or --eval-split");
}
