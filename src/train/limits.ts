// How large the micro-batches of a run get: what a model is loaded for.

import type { SampleSource } from "../data/samples.ts";
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

/** The most that any micro-batch of this run has, evaluations included. To be spread into `Llama.load`'s options. */
export function runLimits({ dataset, evalDataset, options: given }: PlannedRun): BatchLimits {
  const options = resolveTrainerOptions(given);
  const order = new SampleOrder(dataset.length, options);
  const steps = totalSteps(order, options.epochs, options.maxSteps);
  const limits = trainingLimits(dataset, order, steps, options.packing);
  if (evalDataset === undefined) return limits;
  return mergeLimits(limits, evaluationLimits(evalDataset, options.batchSize, options.packing));
}
