// How large the micro-batches of a run get: what a model is loaded for.

import { resolveTrainerOptions, type TrainerOptions } from "./options.ts";
import {
  type BatchLimits,
  evaluationLimits,
  mergeLimits,
  SampleOrder,
  totalSteps,
  trainingLimits,
} from "./order.ts";
import { type Samples, samplesOf } from "./samples.ts";

export interface PlannedRun {
  dataset: Samples;
  evalDataset?: Samples;
  options?: Partial<TrainerOptions>;
}

/** The most that any micro-batch of this run has, evaluations included. To be spread into `Llama.load`'s options. */
export function runLimits({ dataset, evalDataset, options: given }: PlannedRun): BatchLimits {
  const options = resolveTrainerOptions(given);
  const samples = samplesOf(dataset);
  const order = new SampleOrder(samples.length, options);
  const steps = totalSteps(order, options.epochs, options.maxSteps);
  const limits = trainingLimits(samples, order, steps, options.packing);
  if (evalDataset === undefined) return limits;
  return mergeLimits(limits, evaluationLimits(samplesOf(evalDataset), options.batchSize, options.packing));
}
