// LoRA ranks that are no multiple of 8: a GPU computes with more columns, whose values stay zero and are in no file.

import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { checkpointSource, Llama, linearModules } from "../../src/model/index.ts";
import { cutOut, layInto } from "../../src/model/laid.ts";
import type { Parameters } from "../../src/model/parameters.ts";
import { Device } from "../../src/native/index.ts";
import { runLimits, type StepUpdate, trainStep } from "../../src/train/index.ts";
import { layOut } from "../../src/train/order.ts";
import { describeBackends } from "../backends.ts";
import { folder, readCase, toSample } from "../golden/support.ts";

setDefaultTimeout(120_000);

const dataset = (await readCase("tiny-gqa-bf16-sharded")).samples.map(toSample).slice(0, 2);
const batch = { batch: layOut(dataset, true), draws: BigInt64Array.of(0n, 1n) };
const update = (step: number): StepUpdate => ({
  maxGradNorm: 1,
  adamw: { learningRate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1, step },
});

function load(device: Device, r: number, dropout = 0) {
  return Llama.load(device, checkpointSource(join(folder, "models", "tiny-gqa-bf16-sharded")), {
    ...{ dtype: "bf16", tune: "lora", recompute: "none", seed: 42 },
    lora: { r, alpha: 10, dropout, targetModules: [...linearModules], useRslora: false },
    ...runLimits({ dataset, options: { batchSize: 2, maxSteps: 1 } }),
  });
}

type Trained = ReturnType<typeof load>;

const losses = (model: Trained, first: number, last: number) => {
  const found: number[] = [];
  for (let step = first; step <= last; step++) found.push(trainStep(model, [batch], update(step)).loss);
  return found;
};
const valuesOf = ({ parameters }: Trained) =>
  new Map(parameters!.tensors.map(({ name }) => [name, parameters!.read(name)]));

test("cutting out undoes laying in, and what is added is zero", () => {
  const values = Float32Array.of(1, 2, 3, 4, 5, 6);
  const laid = layInto(values, [2, 3], [3, 4]);
  expect([...laid]).toEqual([1, 2, 3, 0, 4, 5, 6, 0, 0, 0, 0, 0]);
  expect([...cutOut(Float32Array.from(laid), [2, 3], [3, 4])]).toEqual([...values]);
  expect(layInto(values, [2, 3], [2, 3])).toBe(values);
});

describeBackends((device) => {
  for (const [r, dropout] of [
    [5, 0],
    [12, 0.25],
  ] as const) {
    test(`r ${r}, dropout ${dropout}: shapes are the user's, what is beyond stays zero`, () => {
      const model = load(device, r, dropout);
      const parameters = model.parameters as Parameters;
      losses(model, 1, 2);
      // One thread an element: what kernels that want whole vectors would leave odd ranks to.
      const train = () => losses(model, 3, 3);
      const { calls } = device.isHost ? { calls: [] } : device.record(train);
      if (device.isHost) train();
      const launched = new Set(calls.flatMap(({ launches }) => launches.map(({ name }) => name)));
      expect(launched.has("product_plain")).toBe(false);
      expect(launched.has("lora_down_kernel")).toBe(!device.isHost);
      const wide = device.isHost ? r : Math.ceil(r / 8) * 8;
      let moved = 0;
      for (const { name, shape, laid, offset, size } of parameters.tensors) {
        const isA = name.includes("lora_A");
        expect(shape[isA ? 0 : 1]).toBe(r);
        expect(laid[isA ? 0 : 1]).toBe(wide);
        const values = parameters.read(name);
        expect(values.length).toBe(shape[0]! * shape[1]!);
        const all = device.readFloats(parameters.values.rows(offset, size));
        expect(all).toEqual(Float32Array.from(layInto(values, shape, laid)));
        if (!isA && values.some((value) => value !== 0)) moved++;
      }
      expect(moved).toBeGreaterThan(0);
      const count = parameters.tensors.reduce((sum, { shape }) => sum + shape[0]! * shape[1]!, 0);
      expect(parameters.count).toBe(count);
      for (const { shape, name } of parameters.stateTensors)
        expect(parameters.readState(name).length).toBe(4 * shape[0]! * shape[1]!);
      model.close();
    });
  }

  test("values and moments written into another model train on to the same bits", () => {
    const [model, other] = [load(device, 5), load(device, 5)];
    losses(model, 1, 2);
    for (const [name, values] of valuesOf(model)) other.parameters!.write(name, values);
    other.parameters!.afterWrite();
    for (const { name } of model.parameters!.stateTensors)
      other.parameters!.writeState(name, model.parameters!.readState(name));
    expect(losses(other, 3, 4)).toEqual(losses(model, 3, 4));
    expect(valuesOf(other)).toEqual(valuesOf(model));
    model.close();
    other.close();
  });

  test("the losses are the CPU's but for bf16's rounding", () => {
    const cpu = Device.open({ threads: 1 });
    const [model, wanted] = [load(device, 5), load(cpu, 5)];
    const [got, want] = [losses(model, 1, 4), losses(wanted, 1, 4)];
    for (const [i, loss] of want.entries()) expect(Math.abs(got[i]! / loss - 1)).toBeLessThan(2e-3);
    expect(want.at(-1)!).toBeLessThan(want[0]! - 0.01);
    model.close();
    wanted.close();
    cpu.close();
  });
});
