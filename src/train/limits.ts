// How large the micro-batches of a run get: what a model is loaded for.

import type { SampleSource } from "../data/samples.ts";
import type { Llama, ModelOptions } from "../model/index.ts";
import type { DeviceInfo } from "../native/index.ts";
import { resolveTrainerOptions, type TrainerOptions } from "./options.ts";
import {
  type BatchLimits,
  evaluationLimits,
  mergeLimits,
  SampleOrder,
  totalSteps,
  trainingLimits,
} from "./order.ts";

export interface PlannedRun {
  dataset: SampleSource;
  evalDataset?: SampleSource;
  options?: Partial<TrainerOptions>;
}

/**
 * The most that any micro-batch of this run has on any of its ranks, evaluations included. To be spread into
 * `Llama.load`'s options.
 */
export function runLimits({ dataset, evalDataset, options: given }: PlannedRun, ranks = 1): BatchLimits {
  const options = resolveTrainerOptions(given);
  const order = new SampleOrder(dataset.length, options);
  const steps = totalSteps(order, options.epochs, options.maxSteps);
  const { packing, microBatchTokens } = options;
  const limits = trainingLimits(dataset, order, steps, packing, { microBatchTokens, ranks });
  return withEvaluation(limits, evalDataset, options);
}

function withEvaluation(
  limits: BatchLimits,
  evalDataset: SampleSource | undefined,
  { batchSize, packing, microBatchTokens }: TrainerOptions,
): BatchLimits {
  if (evalDataset === undefined) return limits;
  return mergeLimits(limits, evaluationLimits(evalDataset, batchSize, packing, microBatchTokens));
}

/** How an evaluation's samples get into batches. */
export interface EvaluationBatches {
  batchSize: number;
  packing: boolean;
  /** Divides batches of more tokens; 0: none; null: as memory demands. */
  microBatchTokens: number | null;
}

/**
 * What a model may be loaded for to evaluate all `sources`, the most first. Without a given budget that is whole batches,
 * then half of the largest, and so on down to the longest sample, which nothing divides.
 */
export function evaluationSizes(
  sources: readonly SampleSource[],
  { batchSize, packing, microBatchTokens }: EvaluationBatches,
): MergedSize[] {
  const whole = sources
    .map((source) => evaluationLimits(source, batchSize, packing, microBatchTokens))
    .reduce(mergeLimits);
  const sizes: MergedSize[] = [{ microBatchTokens: microBatchTokens ?? 0, limits: whole }];
  if (microBatchTokens !== null) return sizes;
  const { maxTokens, maxTargets, maxPosition } = whole;
  let budget = maxTokens;
  while (budget > maxPosition) {
    budget = Math.max(maxPosition, Math.ceil(budget / 2));
    const limits = { ...whole, maxTokens: budget, maxTargets: Math.min(budget, maxTargets) };
    sizes.push({ microBatchTokens: budget, limits });
  }
  return sizes;
}

/** To be spread into what a model is loaded with: it takes the first of `sizes` that memory allows (ModelOptions.larger). */
export function loadLimits(
  sizes: readonly MergedSize[],
): Pick<ModelOptions, "maxTokens" | "maxTargets" | "maxPosition" | "larger" | "sizedBy"> {
  const { maxTokens, maxTargets, maxPosition } = sizes.at(-1)!.limits;
  return {
    ...{ maxTokens, maxTargets, maxPosition },
    larger: sizes.map(({ limits }) => limits),
    // Batches are divided down to the longest sample already.
    ...(sizes.length > 1 ? { sizedBy: "--max-length" } : {}),
  };
}

/** The budget of the one of `sizes` that a model was loaded for; 0: of none of them. */
export function loadedBudget({ options }: Pick<Llama, "options">, sizes: readonly MergedSize[]): number {
  const { maxTokens, maxTargets } = options;
  const chosen = sizes.find(
    ({ limits }) => limits.maxTokens === maxTokens && limits.maxTargets === maxTargets,
  );
  return chosen?.microBatchTokens ?? 0;
}

/** Tokens of a micro-batch beyond which a step gets no faster: measured on CPUs, estimated for GPUs. */
const enoughTokens = { cpu: 2048, cuda: 8192, emulated: 8192 } as const;

/** A --micro-batch-tokens, and what a model is loaded for with it. */
export interface MergedSize {
  microBatchTokens: number;
  limits: BatchLimits;
}

/**
 * What --micro-batch-tokens may be where memory decides, the most first, down to what the largest micro-batch has
 * without it; none where there is nothing to merge. Each one's limits hold the smaller ones, too.
 */
export function mergedSizes(run: PlannedRun, ranks: number, backend: DeviceInfo["backend"]): MergedSize[] {
  const options = resolveTrainerOptions(run.options);
  const { microBatchTokens, gradientAccumulationSteps, neftLength, optim } = options;
  if (microBatchTokens !== null || gradientAccumulationSteps <= ranks || neftLength === "padded") return [];
  // A last bit of a sum can move a moment by a whole code of its 8 bits: ranks would drift from one process.
  if (optim === "adamw8bit") return [];
  const { batchSize, packing } = options;
  const own = runLimits({ dataset: run.dataset, options }, ranks);
  const least = own.maxTokens;
  const atLeast = mergeLimits(
    own,
    runLimits({ ...run, options: { ...options, microBatchTokens: least } }, ranks),
  );
  const batches = Math.ceil(gradientAccumulationSteps / ranks);
  // Bounds: to merge all steps for each budget would take seconds where samples are many.
  const within = (budget: number): BatchLimits => ({
    maxTokens: Math.min(budget, batches * (packing ? own.maxTokens : batchSize * own.maxPosition)),
    maxTargets: Math.min(budget, batches * own.maxTargets),
    maxSequences: Math.min(budget, batches * batchSize),
    maxPosition: own.maxPosition,
  });
  const most = enoughTokens[backend];
  let budget: number = most; // the smallest beyond `least`
  while (budget / 2 > least) budget /= 2;
  let previous = atLeast;
  const sizes: MergedSize[] = [{ microBatchTokens: least, limits: previous }];
  for (; budget > least && budget <= most; budget *= 2) {
    const limits = mergeLimits(previous, within(budget));
    previous = withEvaluation(limits, run.evalDataset, { ...options, microBatchTokens: budget });
    sizes.push({ microBatchTokens: budget, limits: previous });
  }
  return sizes.toReversed();
}
