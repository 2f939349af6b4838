// The table of options: what is derived from it, and what older runs rely on.

import { describe, expect, test } from "bun:test";
import { accepts, type OptionSpec } from "../../src/options/spec.ts";
import {
  adapterOwn,
  optionEntries,
  optionKey,
  optionName,
  trainDefaults,
  trainerDefaults,
  trainerOptions,
  trainingOptions,
} from "../../src/options/table.ts";
import { makeIdentity, makeRounding, ownValues } from "../../src/train/identity.ts";
import { resolveTrainerOptions } from "../../src/train/options.ts";
import { makeSchedule } from "../../src/train/schedule.ts";
import { FakeModel } from "../train/fake-model.ts";

describe("declarations", () => {
  test.each(optionEntries.map(([name, spec]) => [name, spec] as const))("%s is complete", (name, spec) => {
    expect(name).toMatch(/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/);
    expect(optionName(optionKey(name))).toBe(name);
    expect(spec.help.length).toBeGreaterThan(5);
    expect(spec.help).toMatch(/[^.]$/);
    if (spec.default !== undefined) expect(accepts(spec, spec.default)).toBe(true);
    if (spec.onlyWith === undefined) return;
    const mode: OptionSpec = trainingOptions[spec.onlyWith.option as keyof typeof trainingOptions];
    const { value } = spec.onlyWith;
    const modes = typeof value === "string" ? [value] : value;
    if (modes === null) return expect(mode.default).toBeUndefined();
    expect(modes.filter((one) => mode.type !== "enum" || !mode.values.includes(one))).toEqual([]);
  });

  test("the identity takes values as they are from the trainer's options alone", () => {
    const taken = optionEntries.filter(([, { identity }]) => /^(value|unless default)$/.test(identity ?? ""));
    expect(taken.filter(([, { trainer }]) => trainer !== true)).toEqual([]);
  });
});

test("defaults stand under names in camelCase, null where there is none", () => {
  expect(trainerDefaults).toMatchObject({ alpha: 5, maxGradNorm: 1, adamBeta1: 0.9, evalSteps: null });
  expect(trainDefaults).toMatchObject({ ...trainerDefaults, loraR: 16, maxLength: 512, evalSplit: null });
  expect(Object.keys(trainerDefaults)).not.toContain("loraR");
});

test("the trainer gets its part of the command line's values", () => {
  const values = Object.fromEntries(optionEntries.map(([name, spec]) => [name, spec.default]));
  expect(trainerOptions(values)).toEqual(trainerDefaults);
  const options = trainerOptions({ ...values, "max-steps": 7, packing: false, "lora-r": 3 });
  expect(options).toEqual({ ...trainerDefaults, maxSteps: 7, packing: false });
});

test("an adapter brings what its config says of LoRA", () => {
  expect(adapterOwn).toEqual(["lora-r", "lora-alpha", "target-modules", "use-rslora"]);
});

test("accepts: type, range, choice", () => {
  const share = { type: "float", min: 0, below: 1, help: "" } as const;
  expect([0, 0.5, 1, -0.1, Number.NaN, "0"].map((value) => accepts(share, value))).toEqual([
    ...[true, true, false, false, false, false],
  ]);
  const count = { type: "int", above: 0, max: 3, help: "" } as const;
  expect([1, 3, 4, 0, 1.5].map((value) => accepts(count, value))).toEqual([true, true, false, false, false]);
  const choice = { type: "enum", values: ["a", "b"], help: "" } as const;
  expect(["a", "c", null].map((value) => accepts(choice, value))).toEqual([true, false, false]);
  const day = { type: "date", help: "" } as const;
  expect(["2024-07-26", "2024-02-30", null].map((value) => accepts(day, value))).toEqual([
    true,
    false,
    false,
  ]);
});

// Checkpoints hold these names. One that changes or goes makes every older run impossible to resume.
describe("names that older checkpoints have", () => {
  const options = resolveTrainerOptions();
  const model = new FakeModel();
  const dataset = { samples: 1, tokens: 2, targetTokens: 1, sha256: "0" };
  const identity = makeIdentity({
    options,
    model,
    schedule: makeSchedule(options, 10),
    modelFingerprint: "m",
    startFingerprint: null,
    dataset,
    evalDataset: null,
  });

  test("of the identity", () => {
    const older = [
      ...["--alpha", "--neft-noise", "--neft-length", "--neft-scale", "--neft-scale-learning-rate"],
      ...["--learning-rate", "--lr-scheduler-type", "--weight-decay", "--adam-beta1", "--adam-beta2"],
      ...["--adam-epsilon", "--max-grad-norm", "--shuffle", "--seed", "--batch-size", "--tune", "--dtype"],
      ...["--batch-size times --gradient-accumulation-steps", "steps in all (--epochs, --max-steps)"],
      ...["warm-up steps (--warmup-steps, --warmup-ratio)", "--quantization", "--double-quantization"],
      ...["--lora-r", "--lora-alpha", "--lora-dropout", "--target-modules", "--use-rslora"],
      ...["the model (--model)", "the trained values' start (--adapter, --seed)"],
      ...["the data set's samples", "the data set (--dataset and how it is read)"],
      "the evaluation data set",
    ];
    expect(Object.keys(identity)).toEqual(expect.arrayContaining(older));
    // What a newer option adds is absent from them, and must count as absent at its default.
    for (const [name, value] of Object.entries(identity)) {
      if (!older.includes(name)) expect([name, value]).toEqual([name, null]);
    }
    expect(identity).toMatchObject({
      "--alpha": 5,
      "--neft-scale-learning-rate": null,
      "--neft-scale": null,
    });
    expect(identity).toMatchObject({ "--adam-beta2": 0.999, "--shuffle": "seed", "--batch-size": null });
  });

  test("a newer option at its default is as good as absent", () => {
    const entry = ["min-lr", { type: "float", default: 0, identity: "unless default", help: "" }] as const;
    expect(ownValues({ minLr: 0 }, [entry])).toEqual({ "--min-lr": null });
    expect(ownValues({ minLr: 0.1 }, [entry])).toEqual({ "--min-lr": 0.1 });
  });

  test("of the rounding", () => {
    expect(makeRounding(options, {})).toEqual({
      ...{ "--packing": true, "--batch-size": 8, "--gradient-accumulation-steps": 1 },
      ...{ backend: null, "instruction set": null, threads: null },
    });
    const all = Object.keys(makeRounding({ ...options, microBatchTokens: 64 }, {}, 2, true));
    for (const [name, { identity }] of optionEntries) {
      if (identity === "rounding") expect(all).toContain(`--${name}`);
    }
    expect(trainingOptions.shard.identity).toBe("rounding");
  });
});
