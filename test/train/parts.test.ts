// Options, schedules, the order of samples, the noise hook, and lines of metrics.

import { describe, expect, test } from "bun:test";
import { type Batch, makeBatch } from "../../src/data/batch.ts";
import { UsageError } from "../../src/errors.ts";
import { evaluate } from "../../src/train/evaluate.ts";
import { float32Text } from "../../src/train/metrics.ts";
import { neftune, noiseScale } from "../../src/train/noise.ts";
import {
  optionName,
  resolveTrainerOptions,
  type TrainerOptions,
  trainerDefaults,
} from "../../src/train/options.ts";
import {
  evaluationLimits,
  mergeLimits,
  type OrderOptions,
  SampleOrder,
  totalSteps,
  trainingLimits,
} from "../../src/train/order.ts";
import { makeSchedule, warmupStepsOf } from "../../src/train/schedule.ts";
import { FakeModel, fakeSamples } from "./fake-model.ts";

describe("options", () => {
  test("defaults are filled in, undefined counts as not given, null as none", () => {
    expect(resolveTrainerOptions()).toEqual({ ...trainerDefaults });
    const options = resolveTrainerOptions({ alpha: 0, warmupSteps: null, ...{ epochs: undefined } } as {
      alpha: 0;
    });
    expect(options).toEqual({ ...trainerDefaults, alpha: 0 });
  });

  const refused: [name: string, given: Partial<TrainerOptions>][] = [
    ["--alpha", { alpha: -1 }],
    ["--batch-size", { batchSize: 0 }],
    ["--max-steps", { maxSteps: 1.5 }],
    ["--adam-beta2", { adamBeta2: 1 }],
    ["--learning-rate", { learningRate: Number.NaN }],
    ["--epochs", { epochs: 0 }],
    ["--warmup-ratio", { warmupRatio: 2 }],
    ["--seed", { seed: -1 }],
    ["--packing off", { neftLength: "padded" }],
  ];
  test.each(refused)("a value out of range is refused, naming %s", (name, given) => {
    expect(() => resolveTrainerOptions(given)).toThrow(UsageError);
    expect(() => resolveTrainerOptions(given)).toThrow(name);
  });

  test("names are the command line's", () => {
    expect(["maxGradNorm", "adamBeta1", "useRslora", "loraR"].map(optionName)).toEqual([
      "max-grad-norm",
      "adam-beta1",
      "use-rslora",
      "lora-r",
    ]);
  });
});

describe("schedules", () => {
  const base = { learningRate: 0.005, lrSchedulerType: "cosine", warmupRatio: 0, warmupSteps: 2 } as const;
  const rates = (options: Parameters<typeof makeSchedule>[0], steps: number) => {
    const schedule = makeSchedule(options, steps);
    return Array.from({ length: steps }, (_, step) => schedule.rate(step));
  };

  test("cosine gives get_cosine_schedule_with_warmup's float64 values", () => {
    expect(rates(base, 6)).toEqual([0, 0.0025, 0.005, 0.004267766952966369, 0.0025, 0.0007322330470336313]);
    expect(rates({ ...base, learningRate: 0.001, warmupSteps: 1 }, 4)).toEqual([
      0, 0.001, 0.00075, 0.0002500000000000001,
    ]);
  });

  test("linear, constant and constant_with_warmup", () => {
    expect(rates({ ...base, learningRate: 1, lrSchedulerType: "linear" }, 6)).toEqual([
      0, 0.5, 1, 0.75, 0.5, 0.25,
    ]);
    expect(rates({ ...base, learningRate: 1, lrSchedulerType: "constant" }, 3)).toEqual([1, 1, 1]);
    expect(rates({ ...base, learningRate: 1, lrSchedulerType: "constant_with_warmup" }, 4)).toEqual([
      0, 0.5, 1, 1,
    ]);
  });

  test("warm-up steps win over the ratio, which is rounded up", () => {
    expect(warmupStepsOf({ ...base, warmupRatio: 0.5 }, 100)).toBe(2);
    expect(warmupStepsOf({ ...base, warmupSteps: 0, warmupRatio: 0.5 }, 100)).toBe(0);
    expect(warmupStepsOf({ ...base, warmupSteps: null, warmupRatio: 0.03 }, 101)).toBe(4);
  });
});

describe("order", () => {
  const options: OrderOptions = { batchSize: 3, gradientAccumulationSteps: 2, shuffle: "none", seed: 7 };

  test("an epoch is every sample once, its last step and micro-batch smaller; draws go on", () => {
    const order = new SampleOrder(11, options);
    expect(order.stepsPerEpoch).toBe(2);
    const shape = (step: number) =>
      order.step(step).map(({ samples, draws }) => [[...samples], [...draws].map(Number)]);
    expect(shape(0)).toEqual([
      [
        [0, 1, 2],
        [0, 1, 2],
      ],
      [
        [3, 4, 5],
        [3, 4, 5],
      ],
    ]);
    expect(shape(3)).toEqual([
      [
        [6, 7, 8],
        [17, 18, 19],
      ],
      [
        [9, 10],
        [20, 21],
      ],
    ]);
  });

  test("a step holds the same samples in the same order for every split of its size, asked in any order", () => {
    const of = (batchSize: number, gradientAccumulationSteps: number, steps: number[]) => {
      const order = new SampleOrder(41, { batchSize, gradientAccumulationSteps, shuffle: "seed", seed: 3 });
      return steps.map((step) => order.step(step).flatMap(({ samples }) => [...samples]));
    };
    const straight = of(2, 3, [0, 1, 2, 7, 12]);
    expect(of(6, 1, [0, 1, 2, 7, 12])).toEqual(straight);
    expect(of(1, 6, [12, 7, 2, 1, 0]).reverse()).toEqual(straight);
    expect(straight[0]).not.toEqual([0, 1, 2, 3, 4, 5]);
  });

  test("every epoch is a permutation, another one than the last", () => {
    const order = new SampleOrder(29, { ...options, shuffle: "seed" });
    const epoch = (n: number) =>
      Array.from({ length: order.stepsPerEpoch }, (_, i) => order.step(n * order.stepsPerEpoch + i))
        .flat()
        .flatMap(({ samples }) => [...samples]);
    expect(epoch(0).toSorted((a, b) => a - b)).toEqual(Array.from({ length: 29 }, (_, i) => i));
    expect(epoch(1).toSorted((a, b) => a - b)).toEqual(Array.from({ length: 29 }, (_, i) => i));
    expect(epoch(1)).not.toEqual(epoch(0));
  });

  test("steps of a run: epochs or max-steps, whichever ends first", () => {
    const order = new SampleOrder(11, options);
    expect([totalSteps(order, 3, null), totalSteps(order, 3, 5), totalSteps(order, 3, 50)]).toEqual([
      6, 5, 6,
    ]);
    expect(totalSteps(order, 0.25, null)).toBe(1);
  });

  test("no samples are refused", () => {
    expect(() => new SampleOrder(0, options)).toThrow("no samples");
  });

  test("limits hold every micro-batch, and one of them exactly", () => {
    const samples = fakeSamples(23);
    const order = new SampleOrder(23, { ...options, shuffle: "seed" });
    for (const packing of [true, false]) {
      const limits = trainingLimits(samples, order, 9, packing);
      const batches = Array.from({ length: 9 }, (_, step) => order.step(step))
        .flat()
        .map(({ samples: picked }) =>
          makeBatch(
            [...picked].map((i) => samples[i]!),
            packing ? { packing } : { packing, padId: 0 },
          ),
        );
      expect(limits).toEqual({
        maxTokens: Math.max(...batches.map(({ ids }) => ids.length)),
        maxTargets: Math.max(...batches.map(({ targets }) => targets.length)),
        maxSequences: 3,
        maxPosition: 9,
      });
    }
    const evaluation = evaluationLimits(samples, 23, true);
    expect(evaluation.maxTokens).toBe(samples.reduce((sum, { ids }) => sum + ids.length, 0));
    const small = { maxTokens: 1, maxTargets: 1, maxSequences: 99, maxPosition: 1 };
    expect(mergeLimits(evaluation, small)).toEqual({ ...evaluation, maxSequences: 99 });
  });
});

describe("noise", () => {
  const batch = {
    lengths: Int32Array.of(7, 300),
    paddedLengths: Int32Array.of(300, 300),
    hiddenSize: 4096,
    draws: BigInt64Array.of(5n, 6n),
  };

  test("alpha / sqrt(L·d) in float64, rounded once", () => {
    const hook = neftune({ alpha: 5, seed: 9 })!;
    const expected = [5 / Math.sqrt(7 * 4096), 5 / Math.sqrt(300 * 4096)].map(Math.fround);
    expect(hook(batch)).toEqual({
      kind: "uniform",
      seed: 9,
      scales: Float32Array.from(expected),
      draws: batch.draws,
    });
    // Products past float16's 65504 and past 2^24, where a float32 product would already be rounded.
    expect(noiseScale(15, 4099, 8191)).toBe(Math.fround(15 / Math.sqrt(4099 * 8191)));
  });

  test("padded: the width of the micro-batch", () => {
    const { scales } = neftune({ alpha: 5, length: "padded", noise: "gaussian" })!(batch)!;
    expect([...scales]).toEqual([noiseScale(5, 300, 4096), noiseScale(5, 300, 4096)]);
  });

  test("alpha 0 and noise none make no hook; a negative alpha is refused", () => {
    expect(neftune({ alpha: 0 })).toBeNull();
    expect(neftune({ alpha: 5, noise: "none" })).toBeNull();
    expect(() => neftune({ alpha: -1 })).toThrow("alpha");
    expect(() => neftune({ alpha: Number.NaN })).toThrow("alpha");
  });
});

describe("numbers", () => {
  test("float32 texts are the shortest that read back as the same float32, and JSON", () => {
    const words = new Uint32Array(2000).map((_, i) => (i * 2654435761) >>> 0);
    for (const value of [...new Float32Array(words.buffer), 0, 1e-45, 3.4028234663852886e38, 0.1, 16777216]) {
      const text = float32Text(value);
      if (!Number.isFinite(value)) {
        expect(text).toBe("null");
        continue;
      }
      expect(Math.fround(JSON.parse(text))).toBe(value === 0 ? 0 : Math.fround(value));
      const digits = text.replace(/e.*|[-.]/g, "").replace(/^0+|0+$/g, "").length;
      if (digits > 1) expect(Math.fround(Number(value.toPrecision(digits - 1)))).not.toBe(Math.fround(value));
    }
    expect(float32Text(Math.fround(0.1))).toBe("0.1");
    // A diverged run's perplexity is a float64 that no float32 holds.
    for (const value of [Math.exp(90), -1e39, 3.4028235677973366e38, null])
      expect(float32Text(value)).toBe("null");
  });
});

describe("evaluate", () => {
  test("the loss is over all targets, a sample's over its own, the same for every batch size and layout", async () => {
    const samples = fakeSamples(10);
    samples[4] = { ids: Int32Array.of(1, 2), labels: Int32Array.of(-100, -100), truncated: false };
    const whole = await evaluate(new FakeModel(), samples, { batchSize: 10, packing: true });
    const { losses, targetTokens } = whole.perSample;
    const total = losses.reduce((sum, loss, i) => sum + (i === 4 ? 0 : loss * targetTokens[i]!), 0);
    expect(whole.loss).toBeCloseTo(total / whole.targetTokens, 6);
    expect(whole.perplexity).toBe(Math.exp(whole.loss));
    expect([losses[4], targetTokens[4]]).toEqual([Number.NaN, 0]);
    expect(whole.samples).toBe(10);
    const seen: number[] = [];
    const options = { batchSize: 3, packing: false, onProgress: (n: number) => seen.push(n) };
    const split = await evaluate(new FakeModel(), samples, options);
    expect(split.loss).toBe(whole.loss);
    expect([...split.perSample.losses]).toEqual([...losses]);
    expect(split.perSample.targetTokens).toEqual(targetTokens);
    expect(seen).toEqual([3, 6, 9, 10]);
  });

  test.each([true, false])(
    "packing %p: a batch of more tokens than the budget is divided",
    async (packing) => {
      const samples = fakeSamples(23);
      const longest = Math.max(...samples.map(({ ids }) => ids.length));
      const rowsOf = async (microBatchTokens: number | null) => {
        const rows: number[] = [];
        class Watched extends FakeModel {
          override evaluate(batch: Batch): Float32Array {
            rows.push(batch.ids.length);
            return super.evaluate(batch);
          }
        }
        const options = { batchSize: 10, packing, microBatchTokens };
        return { rows, ...(await evaluate(new Watched(), samples, options)) };
      };
      const whole = await rowsOf(null);
      expect(whole.rows).toHaveLength(3);
      expect((await rowsOf(0)).rows).toEqual(whole.rows);
      for (const budget of [1, 2 * longest, 40]) {
        const divided = await rowsOf(budget);
        const { maxTokens } = evaluationLimits(samples, 10, packing, budget);
        expect(Math.max(...divided.rows)).toBe(maxTokens);
        expect(maxTokens).toBeLessThanOrEqual(Math.max(budget, longest));
        expect(divided.rows.length).toBeGreaterThan(3);
        expect(divided.loss).toBe(whole.loss);
        expect(divided.perSample).toEqual(whole.perSample);
      }
    },
  );

  test("a data set without targets is refused, an abort interrupts", async () => {
    const none = [{ ids: Int32Array.of(1, 2), labels: Int32Array.of(1, -100), truncated: false }];
    await expect(evaluate(new FakeModel(), none, { batchSize: 1, packing: true })).rejects.toThrow(
      "target token",
    );
    const options = { batchSize: 1, packing: true, signal: AbortSignal.abort() };
    await expect(evaluate(new FakeModel(), fakeSamples(2), options)).rejects.toThrow("stopped");
  });
});
