// LoRA+ (arXiv 2402.12354): B has a learning rate of its own, and nothing else differs.

import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { checkpointSource, Llama, type LoraOptions } from "../../src/model/index.ts";
import type { Device } from "../../src/native/index.ts";
import { runLimits, trainStep } from "../../src/train/index.ts";
import { layOut } from "../../src/train/order.ts";
import { describeBackends } from "../backends.ts";
import { folder, readCase, toSample } from "../golden/support.ts";

setDefaultTimeout(120_000);

const dataset = (await readCase("tiny-mha-f32")).samples.map(toSample).slice(0, 2);
const lora: LoraOptions = {
  ...{ r: 4, alpha: 8, dropout: 0, targetModules: ["q_proj", "v_proj"], useRslora: false },
};
const adamw = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1 };

/** The adapter after one step. */
function trained(device: Device, learningRate: number, rateOfB?: number) {
  const model = Llama.load(device, checkpointSource(join(folder, "models", "tiny-mha-f32")), {
    ...{ dtype: "f32", tune: "lora", lora, recompute: "none", seed: 42 },
    ...runLimits({ dataset, options: { batchSize: 2, maxSteps: 1 } }),
  });
  try {
    const batch = { batch: layOut(dataset, true), draws: BigInt64Array.of(0n, 1n) };
    const rates = rateOfB === undefined ? {} : { lora_B: rateOfB };
    trainStep(model, [batch], { maxGradNorm: 1, adamw: { ...adamw, learningRate, step: 1 }, rates });
    const parameters = model.parameters!;
    return new Map(parameters.tensors.map(({ name }) => [name, parameters.read(name)]));
  } finally {
    model.close();
  }
}

describeBackends((device) => {
  test("A moves as with its own rate, B as with B's, to the bit", () => {
    const [slow, fast, plus] = [trained(device, 1e-3), trained(device, 16e-3), trained(device, 1e-3, 16e-3)];
    for (const [name, values] of plus) {
      const wanted = name.includes(".lora_B.") ? fast : slow;
      expect(values).toEqual(wanted.get(name)!);
      // The rate decides what either does: in the first step nothing but weight decay acts on A.
      expect(values).not.toEqual((wanted === fast ? slow : fast).get(name)!);
    }
  });
});
