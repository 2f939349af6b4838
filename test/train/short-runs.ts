// Short runs that something happens to: their set-up, what they leave, and why they ended.

import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { NeftuneError } from "../../src/errors.ts";
import { NoisyTrainer, type TrainerSettings } from "../../src/train/index.ts";
import { FakeModel, fakeSamples } from "./fake-model.ts";

const base = { batchSize: 4, learningRate: 0.05, maxSteps: 12, epochs: 9, saveSteps: 4, saveTotalLimit: 2 };

/** A trainer of twelve steps that saves every fourth, the notes it gives, and its model. */
export function run(settings: Partial<TrainerSettings> & { output: string }, model = new FakeModel()) {
  const notes: string[] = [];
  const reporter = { onNote: (text: string) => notes.push(text), ...settings.reporter };
  const options = { ...base, ...settings.options };
  const trainer = new NoisyTrainer({ dataset: fakeSamples(21), model, ...settings, reporter, options });
  return { trainer, notes, model };
}

/** The bytes of the adapter that a run left, in hexadecimal. */
export const resultFile = (output: string) => readFileSync(join(output, "adapter_model.safetensors")).toHex();

/** The error that a promise ends with. */
export async function failureOf(promise: Promise<unknown>): Promise<NeftuneError> {
  const error = await promise.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(NeftuneError);
  return error as NeftuneError;
}
