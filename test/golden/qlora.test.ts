// NF4 models against PyTorch + Transformers + PEFT + bitsandbytes: logits, losses, QLoRA runs, greedy continuations. The
// same numbers whether the checkpoint is quantized or quantized while it is loaded.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { generate, type ModelOptions } from "../../src/model/index.ts";
import { describeBackends } from "../backends.ts";
import {
  evalLoss,
  expectAdapter,
  expectForward,
  folder,
  type GoldenQuantizedCase,
  loadForRun,
  mean,
  packed,
  padded,
  readCase,
  relative,
  runSteps,
} from "./support.ts";

setDefaultTimeout(120_000);

/**
 * The model as bitsandbytes quantized it, and the one that it was quantized from: there bitsandbytes' CPU code, whose
 * numbers these are, takes another code than the nearest for one absmax in 600, which is not rounding.
 */
const origins: [name: string, changes: Partial<ModelOptions>, slack: number][] = [
  ["tiny-mha-nf4", {}, 1],
  ["tiny-mha-f32", { quantization: { double: true } }, 10],
];

describeBackends((device) => {
  for (const [name, changes, slack] of origins) {
    describe(name, async () => {
      const golden = await readCase<GoldenQuantizedCase>("tiny-mha-nf4");

      test("forward: logits and losses", () => {
        const model = loadForRun(device, name, null, "lora", changes);
        expectForward(model, golden, slack);
        expect(model.quantized.size).toBe(14);
        model.close();
      });

      test("greedy continuations are identical", () => {
        const model = loadForRun(device, name, null, "lora", changes);
        for (const { prompt, ids, new_tokens, repetition_penalty } of golden.generate) {
          const options = { maxNewTokens: new_tokens, repetitionPenalty: repetition_penalty, eosIds: [] };
          expect([...generate(model, [Int32Array.from(prompt)], options)[0]!]).toEqual(ids);
        }
        model.close();
      });

      for (const run of golden.qlora_train) {
        for (const [layout, batchOf] of [
          ["packed", packed],
          ["padded", padded],
        ] as const) {
          test(`QLoRA ${run.name}, ${layout}: losses, norms, final adapter`, () => {
            const model = loadForRun(device, name, run, "lora", changes);
            expect(relative(evalLoss(model, golden), run.eval_loss_before)).toBeLessThan(1e-5 * slack);
            runSteps(model, golden, run, batchOf, slack);
            expectAdapter(model, join(folder, run.adapter_final), slack);
            expect(relative(evalLoss(model, golden), run.eval_loss_after)).toBeLessThan(1e-5 * slack);
            model.close();
          });
        }
      }

      test("recomputing activations changes no bit", () => {
        const run = golden.qlora_train[0]!;
        const batch = packed(golden.samples.slice(0, 4));
        const draws = BigInt64Array.from([0n, 1n, 2n, 3n]);
        const results = (["none", "layer"] as const).map((recompute) => {
          const model = loadForRun(device, name, run, "lora", { ...changes, recompute });
          model.parameters!.zeroGradients();
          const losses = model.trainBatch(batch, 1 / batch.targets.length, { draws });
          const result = [...losses, ...device.readFloats(model.parameters!.gradients)];
          model.close();
          return result;
        });
        expect(results[1]).toEqual(results[0]!);
      });

      test("bf16 losses are within 1 % of float32", () => {
        const model = loadForRun(device, name, null, "lora", { ...changes, dtype: "bf16" });
        for (const sequence of golden.forward.filter(({ targets }) => targets > 0))
          expect(relative(mean(model.evaluate(packed([sequence]))), sequence.loss)).toBeLessThan(0.01);
        model.close();
      });
    });
  }
});
