// Learning-rate schedules: the values of Transformers' optimization.py (get_cosine_schedule_with_warmup and its
// like), computed in float64 as there.

import type { SchedulerType } from "./options.ts";

export interface Schedule {
  readonly totalSteps: number;
  readonly warmupSteps: number;
  /** What step `step`, counted from 0, multiplies a peak rate with. With warm-up the first is 0. */
  factor(step: number): number;
  /** The learning rate of step `step`. */
  rate(step: number): number;
}

export interface ScheduleOptions {
  learningRate: number;
  lrSchedulerType: SchedulerType;
  warmupRatio: number;
  warmupSteps: number | null;
}

/** Warm-up steps: as given, else ⌈ratio · total⌉; `constant` has none. */
export function warmupStepsOf(options: ScheduleOptions, totalSteps: number): number {
  if (options.lrSchedulerType === "constant") return 0;
  return options.warmupSteps ?? Math.ceil(totalSteps * options.warmupRatio);
}

export function makeSchedule(options: ScheduleOptions, totalSteps: number): Schedule {
  const warmupSteps = warmupStepsOf(options, totalSteps);
  const afterWarmup = shapes[options.lrSchedulerType];
  const factor = (step: number) =>
    step < warmupSteps
      ? step / warmupSteps
      : afterWarmup(step - warmupSteps, Math.max(1, totalSteps - warmupSteps));
  return { totalSteps, warmupSteps, factor, rate: (step) => options.learningRate * factor(step) };
}

/** The factor `step` steps after the warm-up, of `steps` that there are. */
const shapes: Record<SchedulerType, (step: number, steps: number) => number> = {
  cosine: (step, steps) => Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (step / steps)))),
  linear: (step, steps) => Math.max(0, (steps - step) / steps),
  constant: () => 1,
  constant_with_warmup: () => 1,
};
