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
  /** Share of the peak rate at the end; null: 0. */
  minLrRatio?: number | null;
  /** Of cosine_with_restarts. */
  numCycles?: number;
  /** Of warmup_stable_decay; null: a tenth of all steps. */
  numDecaySteps?: number | null;
}

/** Warm-up steps: as given, else ⌈ratio · total⌉; `constant` has none. */
export function warmupStepsOf(options: ScheduleOptions, totalSteps: number): number {
  if (options.lrSchedulerType === "constant") return 0;
  return options.warmupSteps ?? Math.ceil(totalSteps * options.warmupRatio);
}

export function makeSchedule(options: ScheduleOptions, totalSteps: number): Schedule {
  const warmupSteps = warmupStepsOf(options, totalSteps);
  const span = { steps: Math.max(1, totalSteps - warmupSteps), warmupSteps, totalSteps };
  const afterWarmup = shapes[options.lrSchedulerType];
  // warmup_stable_decay rises from its lowest rate, the others from 0.
  const start = options.lrSchedulerType === "warmup_stable_decay" ? (options.minLrRatio ?? 0) : 0;
  const factor = (step: number) =>
    step < warmupSteps
      ? start + (1 - start) * (step / warmupSteps)
      : afterWarmup(step - warmupSteps, span, options);
  return { totalSteps, warmupSteps, factor, rate: (step) => options.learningRate * factor(step) };
}

interface Span {
  /** After the warm-up; at least 1. */
  steps: number;
  warmupSteps: number;
  totalSteps: number;
}

/** Where `polynomial` ends, and what stands for warm-up steps in `inverse_sqrt` without any, as in Transformers. */
const POLYNOMIAL_END = 1e-7;
const DEFAULT_TIMESCALE = 10_000;

const cosine = (progress: number) => Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
const above = (least: number, factor: number) => least + (1 - least) * factor;

/** The factor `step` steps after the warm-up. */
const shapes: Record<SchedulerType, (step: number, span: Span, options: ScheduleOptions) => number> = {
  cosine: (step, { steps }) => cosine(step / steps),
  linear: (step, { steps }) => Math.max(0, (steps - step) / steps),
  constant: () => 1,
  constant_with_warmup: () => 1,
  cosine_with_min_lr: (step, { steps }, { minLrRatio }) => above(minLrRatio ?? 0, cosine(step / steps)),
  cosine_with_restarts: (step, { steps }, { numCycles = 1 }) =>
    step >= steps ? 0 : cosine((numCycles * (step / steps)) % 1),
  polynomial: (step, { steps }, { learningRate }) =>
    learningRate > POLYNOMIAL_END
      ? ((learningRate - POLYNOMIAL_END) * Math.max(0, 1 - step / steps) + POLYNOMIAL_END) / learningRate
      : 1,
  inverse_sqrt: (step, { warmupSteps }) => {
    const timescale = warmupSteps || DEFAULT_TIMESCALE;
    return 1 / Math.sqrt((step + timescale) / timescale);
  },
  warmup_stable_decay: (step, { totalSteps, warmupSteps }, { minLrRatio, numDecaySteps }) => {
    const decay = numDecaySteps ?? Math.ceil(totalSteps / 10);
    const stable = Math.max(0, totalSteps - warmupSteps - decay);
    return step < stable
      ? 1
      : above(minLrRatio ?? 0, cosine(Math.min(1, (step - stable) / Math.max(1, decay))));
  },
};
