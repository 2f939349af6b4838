// Runs of a model of a few numbers, which take milliseconds: their set-up, and what they leave.

import { expect } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { InterruptedError } from "../../src/errors.ts";
import { NoisyTrainer, type TrainerSettings } from "../../src/train/index.ts";
import { inMemory, scratchFolders } from "../scratch.ts";
import { FakeModel, fakeSamples } from "./fake-model.ts";

export const dataset = fakeSamples(21);
export const evalDataset = fakeSamples(6);
export const base = {
  ...{ batchSize: 2, gradientAccumulationSteps: 2, learningRate: 0.05, epochs: 3, saveSteps: 4 },
};

/** A trainer with a fresh model. 21 samples, 4 in a step: 6 steps an epoch, 18 in all. */
export function noisy(settings: Partial<TrainerSettings> & { output: string }, model = new FakeModel()) {
  const options = { ...base, ...settings.options };
  return { model, trainer: new NoisyTrainer({ dataset, model, ...settings, options }) };
}

export type Line = Record<string, number | null | string>;
export const timing = ["seconds", "tokens_per_second", "peak_memory_bytes"];

/** The lines of metrics.jsonl without times and memory. */
export function metricsOf(output: string): Line[] {
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trimEnd().split("\n");
  return lines.map((line) => {
    const fields = Object.entries(JSON.parse(line) as Line);
    return Object.fromEntries(fields.filter(([name]) => !timing.includes(name)));
  });
}

export const adapterBytes = (output: string) => readFileSync(join(output, "adapter_model.safetensors"));
export const checkpoints = (output: string) => readdirSync(join(output, "checkpoints")).sort();

export function expectSameRun(output: string, reference: string): void {
  expect(metricsOf(output)).toEqual(metricsOf(reference));
  expect(adapterBytes(output).equals(adapterBytes(reference))).toBe(true);
}

/** Folders for a test file's runs, the first of which has a run that never stopped. */
export async function runFolders() {
  const newFolder = scratchFolders(inMemory);
  const straight = newFolder();
  await noisy({ output: straight, evalDataset }).trainer.train();
  return { newFolder, straight };
}

/** Stops a run after `step` steps as Ctrl-C does. */
export async function interruptAfter(step: number, output: string): Promise<void> {
  const stop = new AbortController();
  const reporter = { onStep: (metrics: { step: number }) => metrics.step === step && stop.abort() };
  const { trainer } = noisy({ output, evalDataset, reporter, signal: stop.signal });
  await expect(trainer.train()).rejects.toThrow(InterruptedError);
}
