// The trainer's options: filled in and checked. They are declared in src/options/.

import { UsageError } from "../errors.ts";
import type { schedulerTypes } from "../options/optimization.ts";
import { accepts, expected } from "../options/spec.ts";
import { optionKey, type TrainerOptions, trainerDefaults, trainerEntries } from "../options/table.ts";

export type { TrainerOptions, TrainOptions } from "../options/table.ts";
export { optionName, trainDefaults, trainerDefaults } from "../options/table.ts";

export type SchedulerType = (typeof schedulerTypes)[number];

/** Fills in defaults and checks values and options that exclude each other. Throws UsageError. */
export function resolveTrainerOptions(given: Partial<TrainerOptions> = {}): TrainerOptions {
  const options: TrainerOptions = { ...trainerDefaults };
  const values = options as Record<string, unknown>;
  for (const [name, spec] of trainerEntries) {
    const key = optionKey(name);
    const value = (given as Record<string, unknown>)[key];
    if (value === undefined) continue;
    const isNone = value === null && spec.default === undefined;
    if (!isNone && !accepts(spec, value)) {
      throw new UsageError(`--${name} expects ${expected(spec)}, got ${value}`);
    }
    values[key] = value;
  }
  if (options.neftLength === "padded" && options.packing) {
    throw new UsageError("--neft-length padded needs padding, which --packing leaves out; add --packing off");
  }
  if (options.neftLength === "padded" && options.microBatchTokens) {
    throw new UsageError(
      "--micro-batch-tokens changes which samples are padded together, and with --neft-length padded their noise; leave one of them out",
    );
  }
  if (options.neftScaleLearningRate !== null && options.neftScale === "fixed") {
    throw new UsageError("--neft-scale-learning-rate needs --neft-scale learned");
  }
  if (options.earlyStoppingThreshold > 0 && options.earlyStoppingPatience === null) {
    throw new UsageError("--early-stopping-threshold needs --early-stopping-patience");
  }
  if (options.lrSchedulerType === "cosine_with_min_lr" && options.minLrRatio === null) {
    throw new UsageError("--lr-scheduler-type cosine_with_min_lr needs --min-lr-ratio, such as 0.1");
  }
  return options;
}

/** Whether the noise has a scale to train; without noise there is none. To load the model with. */
export function learnsNoise({ alpha, neftNoise, neftScale }: TrainerOptions): boolean {
  return neftScale === "learned" && alpha > 0 && neftNoise !== "none";
}

/** Throws UsageError where evaluations are asked for and there is nothing to evaluate on. */
export function expectEvaluable(
  options: Pick<TrainerOptions, "evalSteps" | "evalOnStart" | "loadBestModelAtEnd" | "earlyStoppingPatience">,
  hasEvalData: boolean,
): void {
  if (hasEvalData) return;
  const asked = {
    "eval-steps": options.evalSteps !== null,
    "eval-on-start": options.evalOnStart,
    "load-best-model-at-end": options.loadBestModelAtEnd,
    "early-stopping-patience": options.earlyStoppingPatience !== null,
  };
  const [name] = Object.entries(asked).find(([, isAsked]) => isAsked) ?? [];
  if (name === undefined) return;
  throw new UsageError(`--${name} needs something to evaluate on: --eval-dataset or --eval-split`);
}
