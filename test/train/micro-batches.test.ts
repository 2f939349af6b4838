// A step's samples merged into micro-batches up to a budget of tokens: which come together, what stays as it was, and
// what a run chooses by itself.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UsageError } from "../../src/errors.ts";
import type { Llama } from "../../src/model/index.ts";
import { makeRounding, roundingNote } from "../../src/train/identity.ts";
import { mergedSizes, runLimits } from "../../src/train/limits.ts";
import { mergeMicroBatches } from "../../src/train/micro-batches.ts";
import { resolveTrainerOptions, type TrainerOptions } from "../../src/train/options.ts";
import { type BatchLimits, layOut, mergeLimits, SampleOrder } from "../../src/train/order.ts";
import { mergedSize, runTraining } from "../../src/train/recipe.ts";
import { inMemory, scratchFolders } from "../scratch.ts";
import { fakeSamples } from "./fake-model.ts";
import { adapterBytes, expectSameRun, metricsOf, noisy } from "./runs.ts";
import { makeTinyRun, openDevice } from "./tiny-run.ts";

setDefaultTimeout(60_000);

describe("which samples come together", () => {
  const lengths = [3, 4, 9, 2, 2, 5];
  const batches = [
    { samples: Int32Array.of(0, 1, 2), draws: BigInt64Array.of(10n, 11n, 12n) },
    { samples: Int32Array.of(3, 4, 5), draws: BigInt64Array.of(13n, 14n, 15n) },
  ];
  const merged = (microBatchTokens: number | null, packing: boolean) =>
    mergeMicroBatches(batches, lengths, { microBatchTokens, packing });
  const samplesOf = (tokens: number, packing: boolean) =>
    merged(tokens, packing).map(({ samples }) => [...samples]);

  test("packed, in their order; one longer than the budget stays alone", () => {
    expect(samplesOf(7, true)).toEqual([[0, 1], [2], [3, 4], [5]]);
    expect(samplesOf(9, true)).toEqual([[0, 1], [2], [3, 4, 5]]);
    expect(samplesOf(25, true)).toEqual([[0, 1, 2, 3, 4, 5]]);
    expect(samplesOf(24, true)).toEqual([[0, 1, 2, 3, 4], [5]]);
    expect(samplesOf(1, true)).toEqual([[0], [1], [2], [3], [4], [5]]);
  });

  test("padded, the longest first, with padding in the budget", () => {
    expect(samplesOf(10, false)).toEqual([[2], [5, 1], [0, 3, 4]]);
    expect(samplesOf(18, false)).toEqual([
      [2, 5],
      [1, 0, 3, 4],
    ]);
    expect(samplesOf(54, false)).toEqual([[2, 5, 1, 0, 3, 4]]);
  });

  test("each keeps its draw; without a budget all stays as it is", () => {
    for (const packing of [true, false]) {
      for (const { samples, draws } of merged(10, packing)) {
        expect([...draws]).toEqual(Array.from(samples, (i) => BigInt(10 + i)));
      }
      expect(merged(null, packing)).toBe(batches);
      expect(merged(0, packing)).toBe(batches);
    }
  });

  test.each([
    [true, 1],
    [true, 3],
    [false, 2],
  ])("packing %p on %p ranks: limits hold every micro-batch, and no more", (packing, ranks) => {
    const dataset = fakeSamples(50);
    const options = {
      batchSize: 2,
      gradientAccumulationSteps: 9,
      packing,
      microBatchTokens: 20,
      maxSteps: 5,
    };
    const order = new SampleOrder(dataset.length, resolveTrainerOptions(options));
    const tokens = dataset.map(({ ids }) => ids.length);
    const laidOut = Array.from({ length: 5 * ranks }, (_, i) => {
      const own = order.step(Math.floor(i / ranks)).filter((_, n) => n % ranks === i % ranks);
      return mergeMicroBatches(own, tokens, { packing, microBatchTokens: 20 });
    })
      .flat()
      .map(({ samples }) =>
        layOut(
          [...samples].map((i) => dataset[i]!),
          packing,
        ),
      );
    const most = (value: (batch: (typeof laidOut)[number]) => number) => Math.max(...laidOut.map(value));
    expect(runLimits({ dataset, options }, ranks)).toMatchObject({
      maxTokens: most(({ ids }) => ids.length),
      maxTargets: most(({ targets }) => targets.length),
      maxSequences: most(({ lengths }) => lengths.length),
    });
    expect(most(({ ids }) => ids.length)).toBeLessThanOrEqual(20);
    expect(most(({ lengths }) => lengths.length)).toBeGreaterThan(2);
  });
});

describe("a run", () => {
  const newFolder = scratchFolders(inMemory);
  const trained = async (options: Partial<TrainerOptions>) => {
    const output = newFolder();
    const { model, trainer } = noisy({ output, options });
    const scales = new Map<bigint, number>();
    const noiseOf = model.embedTokens.noise.bind(model.embedTokens);
    model.embedTokens.noise = (batch, hiddenSize, draws) => {
      const noise = noiseOf(batch, hiddenSize, draws);
      for (const [i, draw] of draws.entries()) scales.set(draw, noise!.scales[i]!);
      return noise;
    };
    await trainer.train();
    const noise = [...scales].toSorted(([a], [b]) => Number(a - b));
    return { output, noise, losses: metricsOf(output).map(({ loss }) => loss as number), model };
  };

  test("any budget: the same noise, and losses within rounding", async () => {
    const plain = await trained({});
    expect(plain.noise).toHaveLength(63);
    for (const packing of [true, false]) {
      for (const microBatchTokens of [1, 7, 13, 1000]) {
        const { noise, losses } = await trained({ packing, microBatchTokens });
        expect(noise).toEqual(plain.noise);
        for (const [i, loss] of losses.entries()) expect(loss / plain.losses[i]!).toBeCloseTo(1, 5);
      }
    }
  });

  test("all of a step in one micro-batch is a batch of that size, bit for bit", async () => {
    const merged = await trained({ microBatchTokens: 1000 });
    const whole = await trained({ batchSize: 4, gradientAccumulationSteps: 1 });
    expect(merged.model.calls).toBe(whole.model.calls);
    expectSameRun(merged.output, whole.output);
    expect((await trained({ microBatchTokens: 0 })).model.calls).toBeGreaterThan(merged.model.calls);
  });

  test("padded noise depends on what is padded together, so it is refused", () => {
    const padded = { neftLength: "padded", packing: false } as const;
    expect(() => resolveTrainerOptions({ ...padded, microBatchTokens: 64 })).toThrow(UsageError);
    expect(() => resolveTrainerOptions({ ...padded, microBatchTokens: 64 })).toThrow("--micro-batch-tokens");
    expect(resolveTrainerOptions({ ...padded, microBatchTokens: 0 }).microBatchTokens).toBe(0);
  });

  test("checkpoints that know no budget are those of runs without one; another one changes the rounding", () => {
    const roundingOf = (microBatchTokens: number | null) =>
      makeRounding(resolveTrainerOptions({ microBatchTokens }), {});
    expect(roundingOf(null)).not.toHaveProperty("--micro-batch-tokens");
    expect(roundingNote(roundingOf(null), roundingOf(0))).toBeNull();
    expect(roundingNote(roundingOf(null), roundingOf(512))).toContain(
      "--micro-batch-tokens was none, is now 512",
    );
  });
});

describe("what memory decides", () => {
  const sizesOf = (options: Partial<TrainerOptions>, ranks = 1) =>
    mergedSizes({ dataset: fakeSamples(4000), options }, ranks, "cpu").map(
      ({ microBatchTokens }) => microBatchTokens,
    );
  const step = { batchSize: 40, gradientAccumulationSteps: 50 };

  test("powers of two down to the largest micro-batch as it is", () => {
    const [own] = sizesOf(step).slice(-1);
    const { maxTokens } = runLimits({ dataset: fakeSamples(4000), options: step });
    expect(own).toBe(maxTokens);
    expect(sizesOf(step)).toEqual([2048, 1024, 512, maxTokens]);
    expect(sizesOf({ ...step, batchSize: 1000, gradientAccumulationSteps: 2 })).toHaveLength(1);
  });

  test.each([
    [true, 1],
    [true, 3],
    [false, 2],
  ])(
    "packing %p on %p ranks: each one's limits hold its micro-batches, and those of smaller ones",
    (packing, ranks) => {
      const dataset = fakeSamples(4000);
      const evalDataset = fakeSamples(7);
      const options = { ...step, packing };
      const sizes = mergedSizes({ dataset, evalDataset, options }, ranks, "cpu");
      expect(sizes.length).toBeGreaterThan(2);
      for (const [i, { limits }] of sizes.entries()) {
        for (const { microBatchTokens } of sizes.slice(i)) {
          const exact = runLimits({ dataset, evalDataset, options: { ...options, microBatchTokens } }, ranks);
          expect(mergeLimits(limits, exact)).toEqual(limits);
          if (microBatchTokens === sizes[i]!.microBatchTokens)
            expect(limits.maxTokens).toBeLessThanOrEqual(microBatchTokens);
        }
      }
    },
  );

  test("samples to evaluate that are longer than those trained on are divided by the budget, too", () => {
    const dataset = fakeSamples(400);
    const evalDataset = Array.from({ length: 50 }, (_, i) => {
      const ids = new Int32Array(30 + (i % 7)).fill(1);
      return { ids, labels: ids, truncated: false };
    });
    for (const packing of [true, false]) {
      const options = { ...step, packing };
      const whole = runLimits({ dataset, evalDataset, options });
      expect(whole.maxTokens).toBeGreaterThan(1200);
      const sizes = mergedSizes({ dataset, evalDataset, options }, 1, "cpu");
      for (const [i, { limits, microBatchTokens }] of sizes.entries()) {
        expect(limits.maxTokens).toBeLessThanOrEqual(microBatchTokens);
        expect(limits.maxPosition).toBe(36);
        for (const { microBatchTokens } of sizes.slice(i)) {
          const exact = runLimits({ dataset, evalDataset, options: { ...options, microBatchTokens } });
          expect(mergeLimits(limits, exact)).toEqual(limits);
        }
      }
      expect(
        runLimits({ dataset, evalDataset, options: { ...options, microBatchTokens: 20 } }).maxTokens,
      ).toBe(36);
      expect(runLimits({ dataset, evalDataset, options: { ...options, microBatchTokens: 0 } })).toEqual(
        whole,
      );
    }
  });

  test("a step that is smaller than the budget is what the model is loaded for", () => {
    const short = { batchSize: 1, gradientAccumulationSteps: 3 };
    const [most] = mergedSizes({ dataset: fakeSamples(30), options: short }, 1, "cpu");
    expect(most!.limits).toMatchObject({ maxTokens: 3 * 9, maxPosition: 9 });
    const [padded] = mergedSizes(
      { dataset: fakeSamples(30), options: { ...short, packing: false } },
      1,
      "cpu",
    );
    expect(padded!.limits.maxTokens).toBe(3 * 9);
  });

  test("nothing where it is given, nothing is accumulated, or the noise would change", () => {
    expect(sizesOf({ ...step, microBatchTokens: 100 })).toEqual([]);
    expect(sizesOf({ ...step, microBatchTokens: 0 })).toEqual([]);
    expect(sizesOf({ batchSize: 40 })).toEqual([]);
    expect(sizesOf({ ...step, gradientAccumulationSteps: 4 }, 4)).toEqual([]);
    expect(sizesOf({ ...step, gradientAccumulationSteps: 8 }, 4)).not.toEqual([]);
    expect(sizesOf({ ...step, neftLength: "padded", packing: false })).toEqual([]);
    expect(sizesOf({ ...step, optim: "adamw8bit" })).toEqual([]);
  });

  test("ranks take the smallest of the budgets that they have room for", async () => {
    const sizes = mergedSizes({ dataset: fakeSamples(4000), options: step }, 2, "cpu");
    const loadedFor = ({ maxTokens, maxTargets }: BatchLimits) =>
      ({ options: { maxTokens, maxTargets } }) as unknown as Pick<Llama, "options">;
    const told: string[] = [];
    const share = async (own: string) => {
      told.push(own);
      return [own, "512"];
    };
    expect(await mergedSize(loadedFor(sizes[0]!.limits), sizes, { ranks: { share } })).toBe(512);
    expect(await mergedSize(loadedFor(sizes[0]!.limits), sizes, null)).toBe(2048);
    expect(told).toEqual(["2048"]);
    const unmerged = runLimits({ dataset: fakeSamples(10), options: {} });
    expect(await mergedSize(loadedFor(unmerged), sizes, null)).toBe(0);
  });

  const { root, request, dataOf } = makeTinyRun();
  const path = (output: string, ...names: string[]) => join(root, output, ...names);
  const recordOf = (output: string) => JSON.parse(readFileSync(path(output, "config.json"), "utf8"));
  const trainer = {
    maxSteps: 4,
    batchSize: 1,
    gradientAccumulationSteps: 3,
    learningRate: 0.1,
    saveSteps: 2,
  };

  test("a run writes down its budget, and --resume keeps it", async () => {
    const train = (output: string, more: object, resume = false) =>
      runTraining(request(output, { resume, trainer: { ...trainer, ...more } }), openDevice);
    await train("straight", {});
    const budget = recordOf("straight")["micro-batch-tokens"];
    expect(budget).toBe(2048);
    await train("given", { microBatchTokens: budget });
    expect(adapterBytes(path("given")).equals(adapterBytes(path("straight")))).toBe(true);
    await train("small", { microBatchTokens: 40 });
    await train("small", { maxSteps: 4 }, true);
    expect(recordOf("small")["micro-batch-tokens"]).toBe(40);
  });

  test("a run's evaluation is divided, and its loss the same but for rounding", async () => {
    const prompt = "hello world ".repeat(4);
    const evalDatasets = dataOf(
      "long",
      Array.from({ length: 7 }, (_, i) => ({ prompt: `${prompt}${i}`, completion: " world" })),
    );
    const train = async (output: string, microBatchTokens: number) => {
      const models: Llama[] = [];
      const once = { maxSteps: 1, batchSize: 4, learningRate: 0, microBatchTokens };
      const { evaluation } = await runTraining(request(output, { evalDatasets, trainer: once }), openDevice, {
        reporter: { onModel: (model) => models.push(model) },
      });
      return { tokens: models[0]!.options.maxTokens, loss: evaluation!.loss };
    };
    const whole = await train("whole-evaluation", 0);
    const divided = await train("divided-evaluation", 40);
    expect(whole.tokens).toBeGreaterThan(60);
    expect(divided.tokens).toBeLessThanOrEqual(40);
    // With AVX2 alone, a product sums the rows that six leave over in another order; on a GPU any other number of rows may.
    expect(divided.loss).toBeCloseTo(whole.loss!, 5);
  });

  test("a long evaluation takes no memory that it does not need, nor makes a run recompute more", async () => {
    const evalDatasets = dataOf(
      "longest",
      Array.from({ length: 8 }, (_, i) => ({ prompt: `${"hello world ".repeat(8)}${i}`, completion: " x" })),
    );
    const load = async (output: string, microBatchTokens: number | null, free: number | null) => {
      const models: Llama[] = [];
      const once = { ...trainer, maxSteps: 1, batchSize: 8, microBatchTokens };
      const open = () => {
        const device = openDevice();
        if (free !== null) device.freeMemory = () => free;
        return device;
      };
      const asked = request(output, { evalDatasets, recompute: "auto", trainer: once });
      await runTraining(asked, open, { reporter: { onModel: (model) => models.push(model) } });
      return models[0]!;
    };
    const { plan: whole } = await load("evaluated-whole", 0, null);
    const { plan: divided } = await load("evaluated-divided", null, whole.total - 1);
    expect(divided.total).toBeLessThan(whole.total);
    const { plan: tight } = await load("evaluated-tight", null, divided.total);
    expect([divided.kept, tight.kept]).toEqual([whole.kept, whole.kept]);
  });

  test("a run that was begun without budgets goes on to the bits it would have had", async () => {
    const constant = { lrSchedulerType: "constant", warmupSteps: 0, warmupRatio: 0 } as const;
    const asked = (output: string, maxSteps: number, more: object) =>
      request(output, { trainer: { ...trainer, ...constant, maxSteps, ...more } });
    await runTraining(asked("before", 4, { microBatchTokens: 0 }), openDevice);
    await runTraining(asked("older", 2, { microBatchTokens: 0 }), openDevice);
    const record = recordOf("older");
    delete record["micro-batch-tokens"];
    writeFileSync(path("older", "config.json"), JSON.stringify(record));
    await runTraining({ ...asked("older", 4, {}), resume: true }, openDevice);
    expect(adapterBytes(path("older")).equals(adapterBytes(path("before")))).toBe(true);
    await runTraining(asked("merged", 4, {}), openDevice);
    expect(adapterBytes(path("merged")).equals(adapterBytes(path("before")))).toBe(false);
  });
});
