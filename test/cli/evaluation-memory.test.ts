// Evaluations in commands: --micro-batch-tokens divides their batches, and without it memory does.

import { afterEach, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { parseArguments, resolveValues } from "../../src/cli/arguments/options.ts";
import { type Command, commonOptions } from "../../src/cli/command.ts";
import { evalCommand } from "../../src/cli/eval.ts";
import { ServedModel } from "../../src/cli/inputs/served-model.ts";
import { checkMerge } from "../../src/cli/merge-check.ts";
import { measureRun } from "../../src/cli/sweep/measure.ts";
import type { Batch } from "../../src/data/batch.ts";
import { Llama, loadForInference } from "../../src/model/index.ts";
import { Device } from "../../src/native/index.ts";
import { evaluationLimits, loadRunData, runTraining } from "../../src/train/index.ts";
import { makeTinyRun, openDevice } from "../train/tiny-run.ts";
import { quietContext } from "./quiet-context.ts";

setDefaultTimeout(120_000);
const { dataOf, request } = makeTinyRun();
const ROWS = 256;
const long = dataOf(
  "long",
  Array.from({ length: ROWS }, (_, i) => ({ prompt: `${"hello world ".repeat(4)}${i}`, completion: " x" })),
);
const batches = { "batch-size": ROWS, "max-length": 64 } as const;
const asked = request("run", {
  evalDatasets: long,
  trainer: { maxSteps: 1, batchSize: ROWS, evalSteps: 100 },
});
await runTraining(asked, openDevice);
const { data, evaluation } = await loadRunData({ ...asked, resume: true }, {});
const held = evaluation!.dataset;

/** Device bytes that the base model with the run's adapter needs for whole batches of `batchSize` samples. */
function neededFor(batchSize: number): number {
  const device = openDevice();
  const { dir } = asked.model;
  const limits = evaluationLimits(held, batchSize, true);
  const model = loadForInference(device, { dir, adapter: asked.output, dtype: "f32" }, limits);
  const { total } = model.plan;
  model.close();
  device.close();
  return total;
}
const needed = neededFor(ROWS);

const spied: { mockRestore(): void }[] = [];
function restore(): void {
  for (const spy of spied.splice(0)) spy.mockRestore();
}
afterEach(restore);
const { evaluate } = Llama.prototype;

/** Lets devices have `free` bytes; null: what they have. Returns the tokens of every micro-batch that is evaluated. */
function watch(free: number | null): number[] {
  const seen: number[] = [];
  restore();
  spied.push(
    spyOn(Llama.prototype, "evaluate").mockImplementation(function (this: Llama, batch: Batch) {
      seen.push(batch.ids.length);
      expect(batch.ids.length).toBeLessThanOrEqual(this.options.maxTokens);
      return evaluate.call(this, batch);
    }),
  );
  if (free !== null) spied.push(spyOn(Device.prototype, "freeMemory").mockReturnValue(free));
  return seen;
}

describe("eval", () => {
  const evaluated = async (free: number | null, more: Record<string, string> = {}) => {
    const seen = watch(free);
    const words = {
      ...{ model: asked.model.dir, adapter: asked.output, dataset: long[0]!.name },
      ...{
        "prompt-template": asked.encoding.template!,
        json: "on",
        device: "cpu",
        threads: "1",
        dtype: "f32",
      },
      ...Object.fromEntries(Object.entries(batches).map(([name, value]) => [name, String(value)])),
      ...more,
    };
    const command = evalCommand as unknown as Command;
    const table = { ...command.options, ...commonOptions };
    const { given } = parseArguments(
      Object.entries(words).flatMap(([name, value]) => [`--${name}`, value]),
      table,
    );
    const printed: string[] = [];
    await command.run(resolveValues(table, given), quietContext({ print: (text) => printed.push(text) }));
    return { seen, loss: JSON.parse(printed.join("\n")).loss as number };
  };

  test("whole batches where memory allows, --micro-batch-tokens of them where it is given", async () => {
    const whole = await evaluated(null);
    expect(whole.seen).toHaveLength(1);
    const divided = await evaluated(null, { "micro-batch-tokens": "200" });
    expect(divided.seen.length).toBeGreaterThan(10);
    expect(Math.max(...divided.seen)).toBeLessThanOrEqual(200);
    expect(divided.loss).toBeCloseTo(whole.loss, 6);
    const padded = await evaluated(null, { "micro-batch-tokens": "200", packing: "off" });
    expect(Math.max(...padded.seen)).toBeLessThanOrEqual(200);
    expect(padded.loss).toBeCloseTo(whole.loss, 6);
  });

  test("less where memory is short, unless 0 forbids that", async () => {
    const { seen, loss } = await evaluated(needed - 1);
    expect(seen.length).toBeGreaterThan(1);
    expect(await evaluated(null)).toEqual({ seen: [expect.any(Number)], loss: expect.closeTo(loss, 6) });
    await expect(evaluated(needed - 1, { "micro-batch-tokens": "0" })).rejects.toThrow(
      "take a smaller --batch-size or --max-length",
    );
    await expect(evaluated(neededFor(1) - 1)).rejects.toThrow("take a smaller --max-length");
  });
});

describe("a sweep's measuring", () => {
  const measured = async (free: number | null, trainer: object = {}) => {
    const seen = watch(free);
    const device = openDevice();
    const run = { ...asked, trainer: { ...asked.trainer, ...trainer } };
    const of = { request: run, train: data.dataset, held, questions: [], maxNewTokens: 1, label: "run" };
    const { held_out_loss: loss } = await measureRun(device, of, quietContext()).finally(() =>
      device.close(),
    );
    return { seen, loss };
  };

  test("divides batches as its training does", async () => {
    const whole = await measured(null);
    expect(whole.seen).toHaveLength(2);
    const given = await measured(null, { microBatchTokens: 200 });
    expect(Math.max(...given.seen)).toBeLessThanOrEqual(200);
    const short = await measured(needed - 1);
    expect(short.seen.length).toBeGreaterThan(2);
    for (const { loss } of [given, short]) expect(loss).toBeCloseTo(whole.loss, 6);
    await expect(measured(needed - 1, { microBatchTokens: 0 })).rejects.toThrow("would fit");
  });
});

test("merge --check divides batches where memory is short", async () => {
  const { dir } = asked.model;
  const check = async (free: number | null) => {
    const seen = watch(free);
    const device = openDevice();
    const of = { model: dir, adapter: asked.output, merged: dir, quantization: null };
    const { separate } = await checkMerge(device, of, held, quietContext()).finally(() => device.close());
    return { most: Math.max(...seen), loss: separate.loss };
  };
  const short = await check(neededFor(8) - 1);
  const whole = await check(null);
  expect(short.most).toBeLessThan(whole.most);
  expect(short.loss).toBeCloseTo(whole.loss, 6);
});

test("chat and serve are told of the option that they have", () => {
  watch(neededFor(8));
  const device = openDevice();
  const options = {
    ...({ quantization: "none", "double-quantization": true, "quantized-cache": undefined } as const),
    ...({ dtype: "f32", "prompt-template": undefined, "context-length": undefined, slots: 1 } as const),
    adapter: undefined,
  };
  const open = () => ServedModel.open(device, { path: asked.model.dir }, options, { note: () => {} });
  expect(open).toThrow("take a smaller --context-length");
  device.close();
});
