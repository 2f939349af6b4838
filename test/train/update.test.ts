import { expect, test } from "bun:test";
import { resolveTrainerOptions } from "../../src/train/options.ts";
import { makeSchedule } from "../../src/train/schedule.ts";
import { nextUpdate } from "../../src/train/update.ts";

test("an update has the schedule's rates at its step, LoRA+'s too, and AdamW's count of updates", () => {
  const options = resolveTrainerOptions({
    ...{ learningRate: 0.5, lrSchedulerType: "linear", warmupSteps: 4, loraplusLrRatio: 16 },
    ...{ neftScale: "learned", neftScaleLearningRate: 2, maxGradNorm: 3 },
    ...{ adamBeta1: 0.8, adamBeta2: 0.98, adamEpsilon: 1e-7, weightDecay: 0.25 },
  });
  const schedule = makeSchedule(options, 12);
  expect(nextUpdate(options, schedule, { step: 6, optimizerSteps: 2 })).toEqual({
    maxGradNorm: 3,
    adamw: { learningRate: 0.375, beta1: 0.8, beta2: 0.98, epsilon: 1e-7, weightDecay: 0.25, step: 3 },
    rates: { noise: 1.5, lora_B: 6 },
  });
  const plain = { ...options, loraplusLrRatio: null, neftScaleLearningRate: null };
  expect(nextUpdate(plain, schedule, { step: 1, optimizerSteps: 1 }).rates).toEqual({ noise: 0.125 });
});
