// The model against PyTorch + Transformers + PEFT in float32: logits, losses, training runs, greedy continuations.
// Limits are those of the project's specification; what rounding alone does is ten times less.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { openAdapter } from "../../src/formats/peft.ts";
import { readTensorData } from "../../src/formats/safetensors.ts";
import { adapterTensors, generate, type Llama } from "../../src/model/index.ts";
import { neftune } from "../../src/train/noise.ts";
import { describeBackends } from "../backends.ts";
import {
  folder,
  type GoldenCase,
  type GoldenRun,
  loadForRun,
  modelNames,
  packed,
  padded,
  readCase,
  relative,
} from "./support.ts";

setDefaultTimeout(120_000);

const mean = (losses: Float32Array) => losses.reduce((sum, loss) => sum + loss, 0) / losses.length;

function evalLoss(model: Llama, golden: GoldenCase): number {
  const losses = golden.samples.flatMap((sample) => [...model.evaluate(packed([sample]))]);
  return mean(Float32Array.from(losses));
}

/** Runs the recorded steps; checks each step's loss and norm. */
function train(model: Llama, golden: GoldenCase, run: GoldenRun, layout: typeof packed): void {
  const parameters = model.parameters!;
  const noise = run.neftune;
  if (noise !== undefined) {
    model.embedTokens.registerForwardHook(neftune({ ...noise, length: "true" })!);
  }
  for (const [i, step] of run.record.entries()) {
    parameters.zeroGradients();
    const losses: number[] = [];
    for (let micro = 0; micro < run.accumulation; micro++) {
      const range = [micro * run.micro_batch, (micro + 1) * run.micro_batch] as const;
      const draws = BigInt64Array.from((step.draws ?? step.samples).slice(...range), BigInt);
      const batch = layout(step.samples.slice(...range).map((index) => golden.samples[index]!));
      losses.push(...model.trainBatch(batch, 1 / step.targets, { draws }));
    }
    expect(losses.length).toBe(step.targets);
    const loss = losses.reduce((sum, value) => sum + value, 0) / step.targets;
    expect(relative(loss, step.loss), `loss of step ${i}: ${loss}, not ${step.loss}`).toBeLessThan(1e-5);
    const norm = parameters.gradientNorm(run.max_grad_norm);
    expect(
      relative(norm, step.grad_norm),
      `gradient norm of step ${i}: ${norm}, not ${step.grad_norm}`,
    ).toBeLessThan(2e-5);
    parameters.adamwStep({
      learningRate: step.lr,
      beta1: run.betas[0],
      beta2: run.betas[1],
      epsilon: run.eps,
      weightDecay: run.weight_decay,
      step: i + 1,
    });
  }
}

function expectAdapter(model: Llama, dir: string): void {
  const golden = openAdapter(dir).weights;
  for (const { name, data } of adapterTensors(model.parameters!)) {
    const got = new Float32Array((typeof data === "function" ? data() : data).buffer);
    const want = new Float32Array(readTensorData(golden, name).slice().buffer);
    let [difference, size, worst] = [0, 0, 0];
    for (let i = 0; i < want.length; i++) {
      difference += (got[i]! - want[i]!) ** 2;
      size += want[i]! ** 2;
      worst = Math.max(worst, Math.abs(got[i]! - want[i]!));
    }
    expect(Math.sqrt(difference / size), `${name}: relative distance`).toBeLessThan(1e-4);
    expect(worst, `${name}: largest difference`).toBeLessThan(1e-4);
  }
}

describeBackends((device) => {
  for (const name of modelNames) {
    describe(name, async () => {
      const golden = await readCase(name);

      test("forward: logits and losses", () => {
        const model = loadForRun(device, name, null, "lora");
        const V = model.config.vocabSize;
        for (const sequence of golden.forward) {
          const batch = packed([sequence]);
          const logits = model.logits(batch, Int32Array.from(sequence.ids.keys()));
          for (const [t] of sequence.ids.entries()) {
            const row = logits.subarray(t * V, (t + 1) * V);
            const max = row.reduce((most, x) => Math.max(most, x), -Infinity);
            const logsumexp = max + Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0));
            expect(Math.abs(max - sequence.max[t]!)).toBeLessThan(1e-4);
            expect(Math.abs(logsumexp - sequence.logsumexp[t]!)).toBeLessThan(1e-4);
          }
          for (const { position, values } of sequence.logits) {
            for (const [i, value] of values.entries())
              expect(Math.abs(logits[position * V + i]! - value)).toBeLessThan(1e-4);
          }
          const losses = model.evaluate(batch);
          if (sequence.targets > 0) expect(relative(mean(losses), sequence.loss)).toBeLessThan(5e-6);
        }
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
        for (const [layout, batchOf] of [
          ["packed", packed],
          ["padded", padded],
        ] as const) {
          test(`LoRA ${run.name}, ${layout}: losses, norms, final adapter`, () => {
            const model = loadForRun(device, name, run, "lora");
            expect(relative(evalLoss(model, golden), run.eval_loss_before)).toBeLessThan(1e-5);
            train(model, golden, run, batchOf);
            expectAdapter(model, join(folder, run.adapter_final));
            expect(relative(evalLoss(model, golden), run.eval_loss_after)).toBeLessThan(1e-5);
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
          train(model, golden, run, packed);
          for (const [tensor, { norm, change_norm }] of Object.entries(run.tensors)) {
            const values = model.parameters!.read(tensor);
            const start = before.get(tensor)!;
            const length = (of: (i: number) => number) =>
              Math.sqrt(values.reduce((sum, _, i) => sum + of(i) ** 2, 0));
            expect(
              relative(
                length((i) => values[i]!),
                norm,
              ),
              `${tensor}: norm`,
            ).toBeLessThan(1e-6);
            expect(
              relative(
                length((i) => values[i]! - start[i]!),
                change_norm,
              ),
              `${tensor}: change`,
            ).toBeLessThan(1e-4);
          }
          expect(relative(evalLoss(model, golden), run.eval_loss_after)).toBeLessThan(1e-5);
          model.close();
        });
      }

      test("recomputing activations changes no bit", () => {
        const run = golden.lora_train[0]!;
        const batch = packed(golden.samples.slice(0, 4));
        const draws = BigInt64Array.from([0n, 1n, 2n, 3n]);
        const gradients = (["none", "mlp", "layer"] as const).map((recompute) => {
          const model = loadForRun(device, name, run, "lora", { recompute });
          model.parameters!.zeroGradients();
          const losses = model.trainBatch(batch, 1 / batch.targets.length, { draws });
          const result = [...losses, ...device.readFloats(model.parameters!.gradients)];
          model.close();
          return result;
        });
        expect(gradients[1]).toEqual(gradients[0]!);
        expect(gradients[2]).toEqual(gradients[0]!);
      });

      test("bf16 losses are within 1 % of float32", () => {
        for (const sequence of golden.forward.filter(({ targets }) => targets > 0)) {
          const model = loadForRun(device, name, null, "lora", { dtype: "bf16" });
          expect(relative(mean(model.evaluate(packed([sequence]))), sequence.loss)).toBeLessThan(0.01);
          model.close();
        }
      });
    });
  }
});
