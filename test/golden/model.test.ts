// The model against PyTorch + Transformers + PEFT in float32: logits, losses, training runs, greedy continuations.
// Limits are those of the project's specification; what rounding alone does is ten times less.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { generate } from "../../src/model/index.ts";
import { describeBackends } from "../backends.ts";
import {
  evalLoss,
  expectForward,
  expectLoraRun,
  expectNearBf16,
  expectSameRecomputed,
  layouts,
  loadForRun,
  modelNames,
  readCase,
  relative,
  runSteps,
} from "./support.ts";

setDefaultTimeout(120_000);

describeBackends((device) => {
  for (const name of modelNames) {
    describe(name, async () => {
      const golden = await readCase(name);

      test("forward: logits and losses", () => {
        const model = loadForRun(device, name, null, "lora");
        expectForward(model, golden);
        model.close();
      });

      test("greedy continuations are identical, one by one and as a batch", () => {
        const model = loadForRun(device, name, null, "lora");
        const prompts = golden.generate.map(({ prompt }) => Int32Array.from(prompt));
        for (const [i, { ids, new_tokens, repetition_penalty, until_eos }] of golden.generate.entries()) {
          const options = { maxNewTokens: new_tokens, repetitionPenalty: repetition_penalty };
          expect([...generate(model, [prompts[i]!], { ...options, eosIds: [] })[0]!]).toEqual(ids);
          const ended = generate(model, [prompts[i]!], { ...options, eosIds: model.config.eosTokenIds });
          expect([...ended[0]!]).toEqual(ids.slice(0, until_eos));
        }
        const plain = golden.generate.filter(({ repetition_penalty }) => repetition_penalty === 1);
        const together = generate(
          model,
          plain.map(({ prompt }) => Int32Array.from(prompt)),
          { maxNewTokens: 48, eosIds: [] },
        );
        for (const [i, { ids }] of plain.entries())
          expect([...together[i]!].slice(0, ids.length)).toEqual(ids);
        model.close();
      });

      for (const run of [...golden.lora_train, ...golden.lora_train_neftune]) {
        for (const [laidOut, layout] of layouts) {
          test(`LoRA ${run.name}, ${laidOut}: losses, norms, final adapter`, () => {
            const model = loadForRun(device, name, run, "lora");
            expectLoraRun(model, { golden, run, layout });
            model.close();
          });
        }
      }

      for (const run of [golden.full_train, golden.full_train_neftune]) {
        test(`full fine-tuning${run.neftune ? " with noise" : ""}: losses, norms, change of every tensor`, () => {
          const model = loadForRun(device, name, run, "full");
          const before = new Map(
            model.parameters!.tensors.map((tensor) => [tensor.name, model.parameters!.read(tensor.name)]),
          );
          expect([...before.keys()].sort()).toEqual(Object.keys(run.tensors).sort());
          runSteps(model, { golden, run });
          for (const [tensor, { norm, change_norm }] of Object.entries(run.tensors)) {
            const values = model.parameters!.read(tensor);
            const start = before.get(tensor)!;
            // The softmax cancels most of what a bias of k adds, so Adam steps on a gradient that is rounding.
            const rounding = tensor.endsWith("k_proj.bias") ? run.other_order.weights_relative_l2 : 0;
            const length = (of: (i: number) => number) =>
              Math.sqrt(values.reduce((sum, _, i) => sum + of(i) ** 2, 0));
            expect(
              relative(
                length((i) => values[i]!),
                norm,
              ),
              `${tensor}: norm`,
            ).toBeLessThan(Math.max(1e-6, rounding));
            expect(
              relative(
                length((i) => values[i]! - start[i]!),
                change_norm,
              ),
              `${tensor}: change`,
            ).toBeLessThan(Math.max(1e-4, (rounding * norm) / change_norm));
          }
          expect(relative(evalLoss(model, golden), run.eval_loss_after)).toBeLessThan(1e-5);
          model.close();
        });
      }

      test("recomputing activations changes no bit", () => {
        const run = golden.lora_train[0]!;
        expectSameRecomputed((recompute) => loadForRun(device, name, run, "lora", { recompute }), golden);
      });

      test("bf16 losses are within 1 % of float32", () => {
        const model = loadForRun(device, name, null, "lora", { dtype: "bf16" });
        expectNearBf16(model, golden);
        model.close();
      });
    });
  }
});
