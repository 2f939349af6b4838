// Runs of the command line on a tiny model, by one process or by ranks, and what they leave.

import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readSafetensorsHeader, readTensorData } from "../../src/formats/safetensors.ts";
import type { Backend } from "../backends.ts";
import { llamaTokenizerJson } from "../data/tiny-tokenizer.ts";
import { folder as golden } from "../golden/support.ts";

/** `neftune train` from source. */
export const neftune = [process.execPath, join(import.meta.dir, "..", "..", "src", "main.ts")];

/** A folder with a tiny model, its tokenizer, and rows of very different lengths. */
export function makePlace(): string {
  const place = mkdtempSync(join(tmpdir(), "neftune-ranks-"));
  const source = join(golden, "models", "tiny-mha-f32");
  mkdirSync(join(place, "model"));
  for (const name of readdirSync(source)) copyFileSync(join(source, name), join(place, "model", name));
  writeFileSync(join(place, "model", "tokenizer.json"), JSON.stringify(llamaTokenizerJson()));
  const words = "hello world this is a tiny set of words for ranks that train together on many rows".split(
    " ",
  );
  const text = (seed: number, count: number) =>
    Array.from({ length: count }, (_, i) => words[(seed * 7 + i * i + 3 * i) % words.length]).join(" ");
  const rows = Array.from({ length: 61 }, (_, i) => ({
    prompt: text(i, 2 + ((i * 5) % 11)),
    completion: ` ${text(i + 100, 1 + ((i * 3) % 7))}`,
  }));
  writeFileSync(join(place, "data.json"), JSON.stringify(rows));
  return place;
}

/** What every run is given; `steps` of three samples a micro-batch. */
export const trainArguments = (steps = 6, { learningRate = 0.01, dtype = "f32" } = {}) => [
  ...["train", "--model", "model", "--dataset", "data.json", "--dtype", dtype, "--threads", "1", "--quiet"],
  ...["--batch-size", "3", "--max-steps", String(steps), "--learning-rate", String(learningRate)],
  ...["--eval-split", "8"],
];

export const environment = (place: string, backend?: Backend) => ({
  ...(backend?.env ?? process.env),
  XDG_CACHE_HOME: join(place, "cache"),
  HF_HUB_OFFLINE: "1",
});

export interface MetricsLine {
  step: number;
  loss?: number;
  eval_loss?: number;
  samples?: number;
  tokens?: number;
  target_tokens?: number;
}

export const metricsOf = (output: string) =>
  readFileSync(join(output, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as MetricsLine);

/** Largest relative difference of the losses of two runs' steps. */
export function lossDifference(a: string, b: string): number {
  const lossesOf = (output: string) =>
    metricsOf(output).flatMap(({ loss }) => (loss === undefined ? [] : [loss]));
  const [ours, theirs] = [lossesOf(a), lossesOf(b)];
  if (ours.length !== theirs.length) throw new Error(`${ours.length} steps and ${theirs.length}`);
  return Math.max(...ours.map((loss, i) => Math.abs(loss / theirs[i]! - 1)));
}

/** The loss of the last evaluation. */
export const evaluationLoss = (output: string) =>
  metricsOf(output).findLast(({ eval_loss }) => eval_loss !== undefined)!.eval_loss!;

/** ‖a − b‖ / ‖b‖ over all trained values, or all of the model's. */
export function valueDifference(a: string, b: string): number {
  const [ours, theirs] = [valuesOf(a), valuesOf(b)];
  let [difference, norm] = [0, 0];
  for (const [name, values] of theirs) {
    for (const [i, value] of values.entries()) {
      difference += (ours.get(name)![i]! - value) ** 2;
      norm += value ** 2;
    }
  }
  return Math.sqrt(difference / norm);
}

function valuesOf(output: string): Map<string, Float32Array> {
  const names = ["adapter_model.safetensors", "model.safetensors", "neft_scale.safetensors"];
  const found = new Map<string, Float32Array>();
  for (const path of names.map((name) => join(output, name)).filter((path) => existsSync(path))) {
    const file = readSafetensorsHeader(path);
    for (const name of file.tensors.keys()) {
      const bytes = readTensorData(file, name);
      found.set(name, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
    }
  }
  return found;
}
