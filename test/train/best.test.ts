// Best evaluation, early stopping, and what of that a resumed run remembers.

import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { isOutOfPatience, type Judgement, judge, noJudgement, whyStopped } from "../../src/train/best.ts";
import type { TrainerOptions } from "../../src/train/index.ts";
import { inMemory, scratchFolders } from "../scratch.ts";
import { FakeModel } from "./fake-model.ts";
import { adapterBytes, checkpoints, evalDataset, expectSameRun, metricsOf, noisy } from "./runs.ts";

const newFolder = scratchFolders(inMemory);

/** Judges losses one after the other. */
function judged(losses: readonly (number | null)[], threshold = 0): Judgement {
  const options = { metricForBestModel: "eval_loss", earlyStoppingThreshold: threshold } as const;
  return losses.reduce<Judgement>((before, loss, i) => {
    const evaluation = { step: i + 1, epoch: 1, loss, perplexity: loss, targetTokens: 1 };
    return judge(before, evaluation, options);
  }, noJudgement);
}

describe("judging, as Transformers' Trainer and EarlyStoppingCallback do", () => {
  test.each([
    [[3, 2, 1], 0, { step: 3, value: 1 }, 0],
    [[3, 2, 2, 2.5], 0, { step: 2, value: 2 }, 2],
    [[3, null, 2], 0, { step: 3, value: 2 }, 0],
    [[null], 0, null, 1],
    // A gain within the threshold is the new best, and does not start the waiting anew.
    [[3, 2.95, 2.9], 0.1, { step: 3, value: 2.9 }, 2],
    [[3, 2.95, 2.8], 0.1, { step: 3, value: 2.8 }, 0],
    [[2, 1.9], 0.2, { step: 2, value: 1.9 }, 1],
  ])("%j with threshold %d", (losses, threshold, best, waited) =>
    expect(judged(losses, threshold)).toEqual({ best, waited }),
  );

  test("an evaluation before the first step does not count", () => {
    const options = { metricForBestModel: "eval_loss", earlyStoppingThreshold: 0 } as const;
    const start = { step: 0, epoch: 0, loss: 1, perplexity: 2, targetTokens: 1 };
    expect(judge(noJudgement, start, options)).toEqual(noJudgement);
  });

  test("patience", () => {
    const waited = (count: number) => ({ best: null, waited: count });
    const asked = (patience: number | null) => ({ earlyStoppingPatience: patience });
    expect(isOutOfPatience(waited(2), asked(2))).toBe(true);
    expect(isOutOfPatience(waited(1), asked(2))).toBe(false);
    expect(isOutOfPatience(waited(99), asked(null))).toBe(false);
  });
});

test("what was waited for in vain is said with the threshold", () => {
  const why = (earlyStoppingThreshold: number, judgement: Judgement) =>
    whyStopped(judgement, { metricForBestModel: "eval_loss", earlyStoppingThreshold });
  expect(why(0.1, { best: { step: 6, value: 2 }, waited: 2 })).toBe(
    "the last 2 evaluations did not improve by more than 0.1 on the best before; the best is that of step 6",
  );
  expect(why(0, { best: null, waited: 1 })).toBe(
    "the last 1 evaluation did not improve on the best before; none was finite",
  );
});

/** A model whose evaluations find these losses. */
function modelWith(losses: readonly number[], done = 0): FakeModel {
  const model = new FakeModel();
  const batches = Math.ceil(6 / 2);
  let calls = done * batches;
  model.evaluate = ({ targets }) =>
    new Float32Array(targets.length).fill(losses[Math.floor(calls++ / batches)]!);
  return model;
}

const run = (
  output: string,
  options: Partial<TrainerOptions>,
  losses: readonly number[],
  more: object = {},
) =>
  noisy(
    { output, evalDataset, options: { evalSteps: 3, ...options }, ...more },
    modelWith(losses),
  ).trainer.train();

describe("a run", () => {
  test("stops when patience is out, saves its end and writes its result", async () => {
    const output = newFolder();
    const notes: string[] = [];
    const reporter = { onNote: (text: string) => notes.push(text) };
    const result = await run(output, { earlyStoppingPatience: 2 }, [3, 2, 2.5, 2.25, 1], { reporter });
    expect(result.steps).toBe(12);
    expect(metricsOf(output).flatMap(({ eval_loss }) => eval_loss ?? [])).toEqual([3, 2, 2.5, 2.25]);
    expect(checkpoints(output).at(-1)).toBe("step-00000012");
    expect(notes.join()).toContain(
      "stopped early after step 12 of 18: the last 2 evaluations did not improve on the best before; the best is that of step 6",
    );
    expect(existsSync(join(output, "adapter_model.safetensors"))).toBe(true);
  });

  test("resumed after that, ends at once with the same result; with more patience it goes on", async () => {
    const output = newFolder();
    await run(output, { earlyStoppingPatience: 2 }, [3, 2, 2.5, 2.25]);
    const before = adapterBytes(output);
    expect((await run(output, { earlyStoppingPatience: 2 }, [], { resume: true })).steps).toBe(12);
    expect(adapterBytes(output).equals(before)).toBe(true);
    expect((await run(output, { earlyStoppingPatience: 9 }, [2, 2, 2, 2], { resume: true })).steps).toBe(18);
  });

  test("keeps the best checkpoint past the limit, and ends with its weights", async () => {
    const output = newFolder();
    const options = { loadBestModelAtEnd: true, saveSteps: 3, saveTotalLimit: 1 };
    const best: unknown[] = [];
    const reporter = { onBest: (...told: unknown[]) => best.push(told) };
    await run(output, options, [3, 1, 2, 2, 2, 2], { reporter });
    expect(checkpoints(output)).toEqual(["step-00000006", "step-00000018"]);
    const path = join(output, "checkpoints", "step-00000006");
    expect(best).toEqual([[{ step: 6, value: 1 }, path]]);
    expect(adapterBytes(output).equals(readFileSync(join(path, "adapter_model.safetensors")))).toBe(true);

    const plain = newFolder();
    await run(plain, { saveSteps: 3, saveTotalLimit: 1 }, [3, 1, 2, 2, 2, 2]);
    expect(checkpoints(plain)).toEqual(["step-00000018"]);
    expect(adapterBytes(plain).equals(adapterBytes(output))).toBe(false);
  });

  test("whose best evaluation is the last takes no values back", async () => {
    const best: unknown[] = [];
    const reporter = { onBest: (...told: unknown[]) => best.push(told) };
    await run(newFolder(), { loadBestModelAtEnd: true }, [3, 2, 2, 2, 2, 1], { reporter });
    expect(best).toEqual([]);
  });

  test("saves a new best also between the steps of --save-steps, and remembers it when resumed", async () => {
    const losses = [3, 1, 2, 2, 2, 2];
    const options = { loadBestModelAtEnd: true, saveSteps: 100, saveTotalLimit: 1 };
    const straight = newFolder();
    await run(straight, options, losses);
    expect(checkpoints(straight)).toEqual(["step-00000006", "step-00000018"]);

    const stopped = newFolder();
    const stop = new AbortController();
    const reporter = { onStep: ({ step }: { step: number }) => void (step === 10 && stop.abort()) };
    await run(stopped, options, losses, { reporter, signal: stop.signal }).catch(() => {});
    expect(checkpoints(stopped)).toEqual(["step-00000006", "step-00000010"]);
    await run(stopped, options, losses.slice(3), { resume: true });
    expectSameRun(stopped, straight);
    expect(checkpoints(stopped)).toEqual(["step-00000006", "step-00000018"]);
  });

  test.each([3, 1])("saves a new best also where step %d made no update", async (step) => {
    const output = newFolder();
    const model = modelWith([1, ...Array(20).fill(3)]);
    model.faults.set(2 * (step - 1), Number.NaN); // two micro-batches a step
    const options = { evalSteps: step, loadBestModelAtEnd: true, saveSteps: 100 };
    const { trainer } = noisy({ output, evalDataset, options }, model);
    expect(await trainer.train()).toMatchObject({ steps: 18, skipped: 1 });
    expect(checkpoints(output)).toEqual([`step-0000000${step}`, "step-00000018"]);
    const best = readFileSync(
      join(output, "checkpoints", checkpoints(output)[0]!, "adapter_model.safetensors"),
    );
    expect(adapterBytes(output).equals(best)).toBe(true);
  });

  test("resumed, forgets a best evaluation that has no checkpoint, and says so", async () => {
    const output = newFolder();
    const notes: string[] = [];
    const stop = new AbortController();
    const onStep = ({ step }: { step: number }) => void (step === 10 && stop.abort());
    const more = { reporter: { onStep }, signal: stop.signal };
    await run(output, { saveSteps: 100 }, [1, 3, 3], more).catch(() => {});
    expect(checkpoints(output)).toEqual(["step-00000010"]);
    const reporter = { onNote: (text: string) => notes.push(text) };
    const options = { loadBestModelAtEnd: true, saveSteps: 100 };
    await run(output, options, [2.5, 2, 2.75], { resume: true, reporter });
    expect(notes.join()).toContain("there is no checkpoint of step 3, the best so far");
    expect(checkpoints(output)).toEqual(["step-00000012", "step-00000015", "step-00000018"]);
    const best = join(output, "checkpoints", "step-00000015", "adapter_model.safetensors");
    expect(adapterBytes(output).equals(readFileSync(best))).toBe(true);
  });

  test("evaluates before the first step, once, also where it is resumed", async () => {
    const output = newFolder();
    await run(output, { evalOnStart: true, saveSteps: 5 }, [9, 3, 3, 3, 3, 3, 3]);
    expect(metricsOf(output)[0]).toMatchObject({ step: 0, epoch: 0, eval_loss: 9 });
    await run(output, { evalOnStart: true, saveSteps: 5 }, [3, 3, 3], { resume: true });
    expect(metricsOf(output).filter(({ step }) => step === 0)).toHaveLength(1);
    expect(metricsOf(output).filter((line) => "eval_loss" in line)).toHaveLength(7);
  });
});

test("--save-only-model: checkpoints without AdamW's state, which --resume refuses by name", async () => {
  const output = newFolder();
  await run(output, { saveOnlyModel: true }, [3, 3, 3, 3, 3, 3]);
  const last = join(output, "checkpoints", checkpoints(output).at(-1)!);
  expect(existsSync(join(last, "optimizer.safetensors"))).toBe(false);
  expect(existsSync(join(last, "adapter_model.safetensors"))).toBe(true);
  await expect(run(output, { saveOnlyModel: true }, [3], { resume: true })).rejects.toThrow(
    /--save-only-model/,
  );
});

test("nothing to evaluate on, and options that need each other, are refused by name", () => {
  const trainer = (options: Partial<TrainerOptions>) => () => noisy({ output: newFolder(), options });
  expect(trainer({ evalOnStart: true })).toThrow("--eval-on-start needs something to evaluate on");
  expect(trainer({ loadBestModelAtEnd: true })).toThrow("--load-best-model-at-end needs something");
  expect(trainer({ earlyStoppingPatience: 1 })).toThrow("--early-stopping-patience needs something");
  expect(trainer({ earlyStoppingThreshold: 1 })).toThrow("needs --early-stopping-patience");
});
