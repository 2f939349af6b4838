// The public library, as somebody who imports it uses it.

import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  adapterLoraOptions,
  checkpointSource,
  Device,
  evaluate,
  evaluationLimits,
  Llama,
  linearModules,
  loadAdapter,
  NoisyTrainer,
  neftune,
  openAdapter,
  runLimits,
} from "neftune";
import { makeBatch } from "../../src/data/batch.ts";
import { folder, readCase, toSample } from "../golden/support.ts";

setDefaultTimeout(60_000);
const dir = join(folder, "models", "tiny-mha-f32");
const samples = (await readCase("tiny-mha-f32")).samples.map(toSample);
const [dataset, heldOut] = [samples.slice(0, 20), samples.slice(20)];

test("train with noise, then evaluate the adapter", async () => {
  const output = mkdtempSync(join(tmpdir(), "neftune-library-"));
  rmSync(output, { recursive: true });
  const device = Device.open({ threads: 2 });
  const options = { alpha: 5, epochs: 2, batchSize: 4, learningRate: 5e-3 };
  const lora = { r: 4, alpha: 8, dropout: 0, targetModules: [...linearModules], useRslora: false };
  const base = { dtype: "f32", recompute: "none", seed: 42 } as const;
  try {
    const limits = runLimits({ dataset, evalDataset: heldOut, options });
    const model = Llama.load(device, checkpointSource(dir), { ...base, tune: "lora", lora, ...limits });
    const result = await new NoisyTrainer({ model, dataset, evalDataset: heldOut, options, output }).train();
    model.close();
    expect(result.steps).toBe(10);
    expect(readdirSync(output)).toContain("adapter_model.safetensors");

    const adapter = openAdapter(output);
    const source = checkpointSource(dir);
    const again = Llama.load(device, source, {
      ...base,
      tune: "lora",
      lora: adapterLoraOptions(output, adapter.config, source.config),
      ...evaluationLimits(heldOut, 2, true),
    });
    const untrained = await evaluate(again, heldOut, { batchSize: 2, packing: true });
    loadAdapter(again.parameters!, adapter);
    const trained = await evaluate(again, heldOut, { batchSize: 2, packing: true });
    again.close();
    expect(trained.loss).toBeCloseTo(result.evaluation!.loss!, 5);
    expect(trained.loss).toBeLessThan(untrained.loss);
  } finally {
    device.close();
    if (existsSync(output)) rmSync(output, { recursive: true });
  }
});

test("neftune() is a hook for any embedding", () => {
  const device = Device.open({ threads: 1 });
  const limits = evaluationLimits(samples, 1, true);
  const lora = { r: 1, alpha: 1, dropout: 0, targetModules: ["q_proj" as const], useRslora: false };
  const model = Llama.load(device, checkpointSource(dir), {
    ...{ dtype: "f32", tune: "lora", lora, recompute: "none", seed: 1 },
    ...limits,
  });
  const batch = makeBatch(samples.slice(0, 1), { packing: true });
  const losses = () => [...model.trainBatch(batch, 1, { draws: BigInt64Array.of(0n) })];
  const plain = losses();
  const removeHook = model.embedTokens.registerForwardHook(neftune({ alpha: 5 })!);
  expect(losses()).not.toEqual(plain);
  expect([...model.evaluate(batch)]).toEqual(plain);
  removeHook();
  expect(losses()).toEqual(plain);
  model.close();
  device.close();
});
