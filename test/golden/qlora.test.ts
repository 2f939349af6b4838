// NF4 models against PyTorch + Transformers + PEFT + bitsandbytes: logits, losses, QLoRA runs, greedy continuations. The
// same numbers whether the checkpoint is quantized or quantized while it is loaded.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { generate, type ModelOptions, type Recompute } from "../../src/model/index.ts";
import { describeBackends } from "../backends.ts";
import {
  expectForward,
  expectLoraRun,
  expectNearBf16,
  expectSameRecomputed,
  type GoldenQuantizedCase,
  layouts,
  loadForRun,
  readCase,
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
        for (const [laidOut, layout] of layouts) {
          test(`QLoRA ${run.name}, ${laidOut}: losses, norms, final adapter`, () => {
            const model = loadForRun(device, name, run, "lora", changes);
            expectLoraRun(model, { golden, run, layout, slack });
            model.close();
          });
        }
      }

      test("recomputing activations changes no bit", () => {
        const run = golden.qlora_train[0]!;
        const load = (recompute: Recompute) =>
          loadForRun(device, name, run, "lora", { ...changes, recompute });
        expectSameRecomputed(load, golden);
      });

      test("bf16 losses are within 1 % of float32", () => {
        const model = loadForRun(device, name, null, "lora", { ...changes, dtype: "bf16" });
        expectNearBf16(model, golden);
        model.close();
      });
    });
  }
});
