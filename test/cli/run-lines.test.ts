import { describe, expect, test } from "bun:test";
import { RunHistory, settingLines } from "../../src/cli/run/lines.ts";
import type { LoraOptions } from "../../src/model/index.ts";
import {
  type EvalMetrics,
  type RunPlan,
  resolveTrainerOptions,
  type StepMetrics,
} from "../../src/train/index.ts";

const plan = (changes: Partial<RunPlan> = {}): RunPlan => ({
  ...{ output: "runs/a", samples: 10, evalSamples: 0, stepsPerEpoch: 100, totalSteps: 300, warmupSteps: 9 },
  ...{
    microBatches: 1,
    ranks: 1,
    startStep: 0,
    resumedFrom: null,
    trainedParameters: 1,
    plannedMemoryBytes: 1,
  },
  ...changes,
});
const lora: LoraOptions = {
  ...{ r: 16, alpha: 32, dropout: 0, useRslora: false },
  targetModules: ["q_proj", "v_proj"],
};
const lines = (
  given: Parameters<typeof resolveTrainerOptions>[0],
  origins: Record<string, string> = {},
  changes: Partial<RunPlan> = {},
) => {
  const options = resolveTrainerOptions(given);
  const microBatches = options.gradientAccumulationSteps;
  return settingLines(options, plan({ microBatches, ...changes }), undefined, origins);
};

describe("the first lines", () => {
  test.each([
    [{}, { alpha: "default" }, "noise: uniform, alpha 5 (default)"],
    [{ alpha: 10 }, { alpha: "flag" }, "noise: uniform, alpha 10"],
    [{ alpha: 15 }, { alpha: "preset open-platypus" }, "noise: uniform, alpha 15 (preset open-platypus)"],
    [{ neftNoise: "gaussian" }, { alpha: "config file" }, "noise: gaussian, alpha 5 (config file)"],
    [{ neftLength: "padded", packing: false }, {}, "noise: uniform, padded length, alpha 5"],
    [{ alpha: 0 }, { alpha: "flag" }, "noise: off, alpha 0"],
    [{ neftNoise: "none" }, { "neft-noise": "flag" }, "noise: off"],
    [
      ...[{ alpha: 0, neftScale: "learned" }, { alpha: "flag" }],
      "noise: off, alpha 0; --neft-scale learned has no effect",
    ],
  ] as const)("%j %j: %s", (given, origins, line) => expect(lines(given, origins)[0]).toBe(line));

  test("learning rate, schedule and warm-up", () => {
    expect(lines({})[1]).toBe("learning rate: 2e-4, cosine, warm-up over 9 steps of 300");
    expect(
      lines({ learningRate: 0.01, lrSchedulerType: "constant" }, {}, { warmupSteps: 0, totalSteps: 1200 })[1],
    ).toBe("learning rate: 0.01, constant, no warm-up, 1,200 steps");
  });

  test("samples per step", () => {
    expect(lines({})[2]).toBe("batch: 8 samples per step, packed");
    expect(lines({ batchSize: 4, gradientAccumulationSteps: 16, packing: false })[2]).toBe(
      "batch: 64 samples per step (16 micro-batches of 4), padded",
    );
    expect(lines({ batchSize: 4 }, {}, { microBatches: 6, ranks: 3 })[2]).toBe(
      "batch: 24 samples per step (6 micro-batches of 4 on 3 ranks), packed",
    );
    expect(lines({ batchSize: 4 }, {}, { microBatches: 6, microBatchTokens: 2048 })[2]).toBe(
      "batch: 24 samples per step (6 micro-batches of 4, merged up to 2,048 tokens), packed",
    );
    expect(lines({}, {}, { microBatchTokens: 100 })[2]).toBe(
      "batch: 8 samples per step (merged up to 100 tokens), packed",
    );
    expect(lines({ batchSize: 1 })[2]).toBe("batch: 1 sample per step, packed");
  });

  test("LoRA, where there is one", () => {
    expect(lines({})).toHaveLength(3);
    const line = (changes: Partial<LoraOptions>) =>
      settingLines(resolveTrainerOptions({}), plan(), { ...lora, ...changes }, {})[3];
    expect(line({})).toBe("LoRA: rank 16, alpha 32, on q_proj, v_proj");
    expect(line({ useRslora: true, dropout: 0.1 })).toBe(
      "LoRA: rank 16, alpha 32 (rsLoRA), dropout 0.1, on q_proj, v_proj",
    );
  });
});

const step = (loss: number | null) => ({ loss }) as StepMetrics;
const evaluation = (at: number, loss: number | null): EvalMetrics => ({
  ...{ step: at, epoch: 1, loss, perplexity: loss === null ? null : Math.exp(loss), targetTokens: 1 },
});
const result = (changes: object = {}) => ({
  ...{ output: "runs/a", steps: 60, skipped: 0, loss: 1, evaluation: null, seconds: 10, tokens: 5000 },
  ...changes,
});

describe("the closing words", () => {
  test("mean of the last tenth of the steps, at least five", () => {
    const history = new RunHistory();
    const seen: (number | null)[] = [];
    const reporter = history.beside({ onStep: ({ loss }) => seen.push(loss) });
    for (let i = 1; i <= 60; i++) reporter.onStep!(step(i <= 54 ? 9 : i), plan());
    expect(seen).toHaveLength(60);
    expect(history.closingLines(result({ loss: 60 }), false)[0]).toBe(
      "60 steps in 10 s, 500 tokens/s; last loss 60.0000, mean of the last 6 steps 57.5000",
    );
  });

  test("steps without a loss are left out; one loss has no mean", () => {
    const history = new RunHistory();
    const reporter = history.beside({});
    for (const loss of [2, null, 4]) reporter.onStep!(step(loss), plan());
    expect(history.closingLines(result({ steps: 3, loss: 4 }), false)[0]).toEndWith(
      "last loss 4.0000, mean of the last 2 steps 3.0000",
    );
    expect(new RunHistory().closingLines(result({ steps: 1, loss: null }), false)[0]).toEndWith(
      "last loss none",
    );
  });

  test("a finished run that is resumed has trained nothing", () => {
    const resumed = result({ seconds: 0, tokens: 0, loss: null, steps: 60 });
    expect(new RunHistory().closingLines(resumed, false)[0]).toBe(
      "nothing was left to train: the run's 60 steps had been done",
    );
  });

  test("evaluation, also the first one", () => {
    const history = new RunHistory();
    const reporter = history.beside({});
    for (const metrics of [evaluation(20, 2.5), evaluation(40, 2.2), evaluation(60, 2)])
      reporter.onEval!(metrics);
    const last = { evaluation: evaluation(60, 2) };
    expect(history.closingLines(result(last), false)[1]).toBe(
      "evaluation: loss 2.0000, perplexity 7.39 (2.5000 after step 20)",
    );
    expect(new RunHistory().closingLines(result(last), false)[1]).toBe(
      "evaluation: loss 2.0000, perplexity 7.39",
    );
  });

  test("of the best model, where that is the result", () => {
    const last = { evaluation: evaluation(60, 2) };
    const history = new RunHistory();
    const told: unknown[] = [];
    const heard: EvalMetrics[] = [];
    const reporter = history.beside({
      onBest: (...all) => told.push(all),
      onEval: (metrics) => heard.push(metrics),
    });
    const evaluations = [evaluation(20, 2.5), evaluation(40, 1.5), evaluation(60, 2)];
    for (const metrics of evaluations) reporter.onEval!(metrics);
    reporter.onBest!({ step: 40, value: 1.5 }, "p");
    expect(told).toEqual([[{ step: 40, value: 1.5 }, "p"]]);
    expect(heard).toEqual(evaluations);
    expect(history.closingLines(result(last), false)[1]).toBe(
      "evaluation of the result, of step 40: loss 1.5000, perplexity 4.48 (2.5000 after step 20)",
    );
    const resumed = new RunHistory();
    const later = resumed.beside({});
    later.onEval!(evaluation(60, 2));
    later.onBest!({ step: 40, value: 1.5 }, "p");
    expect(resumed.closingLines(result(last), false)[1]).toBe(
      "evaluation: loss 2.0000, perplexity 7.39 (the result, of step 40, was better)",
    );
  });

  test("of the best model, where that is the last or the first one", () => {
    const said = (best: number, ...losses: number[]) => {
      const history = new RunHistory();
      const reporter = history.beside({});
      for (const [i, loss] of losses.entries()) reporter.onEval!(evaluation(20 * (i + 1), loss));
      reporter.onBest!({ step: best, value: Math.min(...losses) }, "p");
      return history.closingLines(result({ evaluation: evaluation(40, losses[1]!) }), false)[1];
    };
    expect(said(40, 2.5, 2)).toBe("evaluation: loss 2.0000, perplexity 7.39 (2.5000 after step 20)");
    expect(said(20, 2, 2.5)).toBe("evaluation of the result, of step 20: loss 2.0000, perplexity 7.39");
  });

  test("with --eval-on-start, the first evaluation is that before training", () => {
    const history = new RunHistory();
    const reporter = history.beside({});
    for (const metrics of [evaluation(0, 2.5), evaluation(60, 2)]) reporter.onEval!(metrics);
    expect(history.closingLines(result({ evaluation: evaluation(60, 2) }), false)[1]).toEndWith(
      "(2.5000 before training)",
    );
  });

  test("what was made, and steps without an update", () => {
    const closing = (isFull: boolean, changes: object) =>
      new RunHistory().closingLines(result(changes), isFull).slice(1);
    expect(closing(false, { skipped: 2 })).toEqual([
      "2 steps made no update (see metrics.jsonl)",
      "adapter: runs/a/adapter_model.safetensors",
    ]);
    expect(closing(true, {})).toEqual(["model: runs/a"]);
  });
});
