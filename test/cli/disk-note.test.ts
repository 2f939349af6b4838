// The disk that full tuning takes, said before it starts.

import { expect, test } from "bun:test";
import { type DiskUse, diskNote, diskUse } from "../../src/cli/run/disk-note.ts";

const use: DiskUse = {
  ...{ parameters: 1000, steps: 100, saveSteps: 10, saveTotalLimit: 3, saveDtype: "bf16" },
  ...{ saveOnlyModel: false, loadBestModelAtEnd: false, optim: "adamw" },
};

test("checkpoints are three float32 values a parameter, one more than kept while the next is written", () => {
  expect(diskUse(use)).toEqual({ checkpoint: 12_000, model: 2000, most: 4, total: 50_000 });
  expect(diskUse({ ...use, steps: 15, saveDtype: "f32" })).toMatchObject({
    most: 2,
    model: 4000,
    total: 28_000,
  });
  expect(diskUse({ ...use, steps: 5 })).toMatchObject({ most: 1, total: 14_000 });
});

test("the best evaluation's checkpoint is saved between the others, and kept beside them", () => {
  const best = { ...use, loadBestModelAtEnd: true };
  expect(diskUse(best)).toMatchObject({ most: 5, total: 62_000 });
  expect(diskUse({ ...best, steps: 15, saveTotalLimit: 1 })).toMatchObject({ most: 3, total: 38_000 });
  expect(diskUse({ ...best, steps: 2 })).toMatchObject({ most: 2, total: 26_000 });
});

test("a checkpoint without the optimizer's state, or with it in 8 bits, takes less", () => {
  expect(diskUse({ ...use, saveOnlyModel: true })).toMatchObject({ checkpoint: 4000, total: 18_000 });
  expect(diskUse({ ...use, optim: "adamw8bit" })).toMatchObject({ checkpoint: 6000, total: 26_000 });
});

test("what is free is said, a warning where it is less", () => {
  expect(diskNote("runs/x", use, 60_000)).toBe(
    "disk: up to 4 checkpoints of 11.7 KiB and the model's 2.0 KiB, 48.8 KiB in all; 58.6 KiB free",
  );
  expect(diskNote("runs/x", use, 10_000)).toContain("warning: disk: up to 4 checkpoints");
  expect(diskNote("runs/x", use, 10_000)).toContain("lower --save-total-limit, raise --save-steps");
  expect(diskNote("/", use)).toContain("free");
});
