// What AdamW is to do with a step's gradients: the schedule's rates at that step, and the options of the run.

import type { Progress } from "./checkpoint.ts";
import type { TrainerOptions } from "./options.ts";
import type { Schedule } from "./schedule.ts";
import type { StepUpdate } from "./step.ts";

/** The update that the next step is to make. Steps that made none count for the schedule, but not for AdamW. */
export function nextUpdate(
  options: TrainerOptions,
  schedule: Schedule,
  { step, optimizerSteps }: Pick<Progress, "step" | "optimizerSteps">,
): StepUpdate {
  const scaleRate = options.neftScaleLearningRate ?? options.learningRate;
  const rate = schedule.rate(step);
  const ratio = options.loraplusLrRatio;
  return {
    maxGradNorm: options.maxGradNorm,
    adamw: {
      learningRate: rate,
      beta1: options.adamBeta1,
      beta2: options.adamBeta2,
      epsilon: options.adamEpsilon,
      weightDecay: options.weightDecay,
      step: optimizerSteps + 1,
    },
    rates: {
      noise: scaleRate * schedule.factor(step),
      ...(ratio === null ? {} : { lora_B: rate * ratio }),
    },
  };
}
