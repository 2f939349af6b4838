// One optimizer step: gradients from zero, every micro-batch forward and backward, norm, clip, AdamW's update. All that
// trains goes through here; which batches a step has and what is made of its numbers is the caller's matter.

import type { Batch } from "../data/batch.ts";
import type { RateName } from "../model/index.ts";
import type { AdamWOptions } from "../native/index.ts";
import { reasonToSkip } from "./divergence.ts";
import { type TrainableModel, trainedParameters } from "./model.ts";

/** What a step needs of a model. */
export type StepModel = Pick<TrainableModel, "trainBatch"> & {
  readonly parameters: StepParameters | null;
};
type StepParameters = Pick<
  NonNullable<TrainableModel["parameters"]>,
  "zeroGradients" | "skipBatch" | "gradientNorm" | "adamwStep"
>;

export interface StepBatch {
  batch: Batch;
  /** How many samples the run fed to training before each. */
  draws: BigInt64Array;
}

/** Sums over the micro-batches of a step. */
export interface StepSums {
  /** Mean cross-entropy over all target tokens; 0 where there are none. */
  loss: number;
  samples: number;
  /** Padding not counted. */
  tokens: number;
  targetTokens: number;
}

/** What a step has of samples, whatever comes of them. */
export type StepCounts = Omit<StepSums, "loss">;

export interface StepUpdate {
  /** 0: no clipping. */
  maxGradNorm: number;
  adamw: AdamWOptions;
  /** Learning rates of what has one of its own. */
  rates?: Partial<Record<RateName, number>>;
}

export interface StepResult extends StepSums {
  /** Before clipping; 0 where no token is a target. */
  gradNorm: number;
  /** Why no update was made; null where one was. */
  skipped: string | null;
}

/**
 * Leaves in the parameters' gradients those of the mean loss over all target tokens of `batches`. Of several ranks, each
 * has its share of the loss and gradients: `counts` are those of the whole step, and null stands for a micro-batch that
 * only other ranks have.
 */
export function accumulateGradients(
  model: StepModel,
  batches: readonly (StepBatch | null)[],
  counts: StepCounts = countBatches(batches.flatMap((one) => one?.batch ?? [])),
): StepSums {
  const { targetTokens } = counts;
  const parameters = trainedParameters(model);
  let loss = 0;
  parameters.zeroGradients();
  for (const one of batches) {
    if (one === null || one.batch.targets.length === 0) {
      parameters.skipBatch();
      continue;
    }
    const losses = model.trainBatch(one.batch, 1 / targetTokens, { draws: one.draws });
    loss += losses.reduce((sum, value) => sum + value, 0) / targetTokens;
  }
  return { loss, ...counts };
}

export function countBatches(batches: readonly Batch[]): StepCounts {
  const total = (value: (batch: Batch) => number) => batches.reduce((sum, batch) => sum + value(batch), 0);
  return {
    samples: total(({ lengths }) => lengths.length),
    tokens: total(({ tokens }) => tokens),
    targetTokens: total(({ targets }) => targets.length),
  };
}

/** Clips what accumulateGradients left and updates the parameters, unless loss or gradients are not finite. */
export function applyGradients(
  model: StepModel,
  sums: StepSums,
  { maxGradNorm, adamw, rates }: StepUpdate,
): StepResult {
  const parameters = trainedParameters(model);
  const gradNorm = sums.targetTokens === 0 ? 0 : parameters.gradientNorm(maxGradNorm);
  const skipped = reasonToSkip(sums.targetTokens, sums.loss, gradNorm);
  if (skipped === null) parameters.adamwStep(adamw, rates);
  return { ...sums, gradNorm, skipped };
}

/** One step on `batches`. Throws NeftuneError where the model was loaded without anything to train. */
export function trainStep(model: StepModel, batches: readonly StepBatch[], update: StepUpdate): StepResult {
  return applyGradients(model, accumulateGradients(model, batches), update);
}
