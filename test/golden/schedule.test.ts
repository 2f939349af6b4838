// Learning-rate schedules against the functions of Transformers' optimization.py (schedules.json says which version).

import { expect, test } from "bun:test";
import { makeSchedule, type ScheduleOptions } from "../../src/train/schedule.ts";
import golden from "./schedules.json" with { type: "json" };

const base = { learningRate: 2e-4, warmupRatio: 0 };

test.each(
  golden.schedules.map((one, i) => [one.lrSchedulerType, one.totalSteps, one.warmupSteps, i] as const),
)("%s, %d steps, %d of warm-up (%d)", (_type, totalSteps, _warmup, i) => {
  const { factors, ...given } = golden.schedules[i]!;
  const { factor } = makeSchedule({ ...base, ...given } as ScheduleOptions, totalSteps);
  for (const [step, wanted] of factors.entries()) expect(factor(step)).toBeCloseTo(wanted, 13);
});

test("warmup_stable_decay falls over the last tenth unless told otherwise", () => {
  const options = { ...base, lrSchedulerType: "warmup_stable_decay", warmupSteps: 5 } as const;
  const { factor } = makeSchedule(options, 100);
  expect([factor(89), factor(90), factor(91) < 1, factor(99) < 0.05]).toEqual([1, 1, true, true]);
});

test("a learning rate of 0 stays 0 in every schedule", () => {
  for (const lrSchedulerType of ["polynomial", "cosine", "inverse_sqrt"] as const)
    expect(makeSchedule({ ...base, learningRate: 0, lrSchedulerType, warmupSteps: 2 }, 10).rate(5)).toBe(0);
});
