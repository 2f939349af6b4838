// The demo's steps. Each goes through the same calls as `neftune train`, `eval` and `generate`.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { alpacaPrompt } from "../../data/alpaca.ts";
import { Encoder } from "../../data/encode.ts";
import { promptTemplate } from "../../data/templates.ts";
import { Tokenizer } from "../../data/tokenizer.ts";
import { linearModules, parseConfig } from "../../model/index.ts";
import type { Device } from "../../native/index.ts";
import { type RunReporter, type RunRequest, runTraining, type TrainerOptions } from "../../train/index.ts";
import type { Context } from "../command.ts";
import { writeRandomModel } from "../init.ts";
import { drawRows } from "../inputs/model-data.ts";
import type { Question } from "../sweep/measure.ts";
import type { SettingResult, SweepRun } from "../sweep/results.ts";
import { SweepRunner } from "../sweep/runs.ts";
import { progressReporter } from "../terminal/progress.ts";
import { type DemoData, type InstructionRow, makeDemoData } from "./data.ts";
import { bosId, eosId, trainTokenizer, writeTokenizer } from "./tokenizer.ts";

const DTYPE = "f32";
const VOCABULARY = 1024;
const MAX_LENGTH = 160;
const LONGEST_ANSWER = 48;

/** Chosen so that all of the demo takes a minute or two on two cores. */
export const baseTraining = {
  alpha: 0,
  epochs: 40,
  batchSize: 16,
  learningRate: 3e-3,
} satisfies Partial<TrainerOptions>;
export const fineTuning = { epochs: 4, batchSize: 16, learningRate: 3e-3 } satisfies Partial<TrainerOptions>;
export const lora = { r: 16, alpha: 32, dropout: 0, targetModules: [...linearModules], useRslora: false };

const shape = {
  model_type: "llama",
  hidden_size: 128,
  intermediate_size: 352,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  bos_token_id: bosId,
  eos_token_id: eosId,
  dtype: "float32",
};

/** Where the demo works and what it works with. */
export interface Workplace {
  dir: string;
  seed: number;
  openDevice: () => Device;
  context: Context;
}

const rowsText = (rows: readonly object[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
const dataFile = (dir: string, name: string) => join(dir, "data", name);

/** Writes data, a tokenizer trained on it and a model with random weights. Returns the data and the model's size. */
export function makeInputs({ dir, seed, openDevice }: Workplace): { data: DemoData; parameters: number } {
  const data = makeDemoData(seed);
  const start = join(dir, "start");
  mkdirSync(join(dir, "data"), { recursive: true });
  mkdirSync(start, { recursive: true });
  const withoutFamily = ({ instruction, input, output }: InstructionRow) => ({ instruction, input, output });
  writeFileSync(dataFile(dir, "base.jsonl"), rowsText(data.base));
  writeFileSync(dataFile(dir, "train.jsonl"), rowsText(data.train.map(withoutFamily)));
  writeFileSync(dataFile(dir, "held-out.jsonl"), rowsText(data.heldOut.map(withoutFamily)));

  const texts = [
    ...data.base.map(({ text }) => text),
    ...data.train.map(({ instruction, input, output }) => `${alpacaPrompt(instruction, input)} ${output}`),
  ];
  const tokenizer = trainTokenizer(texts, VOCABULARY);
  writeTokenizer(start, tokenizer);
  const config = parseConfig("the demo's model", {
    ...shape,
    vocab_size: Object.keys(tokenizer.vocab).length,
  });
  const device = openDevice();
  try {
    return { data, parameters: writeRandomModel(device, start, config, seed).parameters };
  } finally {
    device.close();
  }
}

/** What a run of the demo is asked for: all weights on plain text, or LoRA on the instructions. */
function requestOf(
  { dir, seed }: Workplace,
  name: string,
  base: string,
  tune: "lora" | "full",
  file: string,
  options: Partial<TrainerOptions>,
): RunRequest {
  const dataOf = (name: string) => ({ name, files: [dataFile(dir, name)], weight: 1 });
  return {
    model: { dir: join(dir, base), name: join(dir, base) },
    datasets: [dataOf(file)],
    evalDatasets: tune === "full" ? [] : [dataOf("held-out.jsonl")],
    encoding: { maxLength: MAX_LENGTH },
    tune,
    dtype: DTYPE,
    recompute: "none",
    lora,
    trainer: { seed, ...options },
    output: join(dir, name),
    record: { tune },
  };
}

function reporterOf(context: Context, name: string): RunReporter {
  return {
    ...progressReporter(context, name),
    onRows: (path, rows) => drawRows(context, path, rows),
    onRowsDone: () => context.draw(""),
    onPlan: () => context.finishFirst?.(),
    onSave: () => {},
    onEval: () => {},
  };
}

/** Trains all weights of the random model on plain text. */
export async function trainBase(place: Workplace): Promise<void> {
  const { context, openDevice } = place;
  const request = requestOf(place, "base", "start", "full", "base.jsonl", baseTraining);
  await runTraining(request, openDevice, { reporter: reporterOf(context, "base"), signal: context.signal });
}

/** The fine-tunings: each alpha with each seed, in the order of the settings. */
const ALPHAS = [0, 5] as const;
const SEEDS = 2;

/** The held-out instructions as the base is asked them. */
function questionsOf(place: Workplace, data: DemoData): Question[] {
  const encoder = new Encoder(Tokenizer.load(join(place.dir, "base")), {
    template: promptTemplate("alpaca"),
    maxLength: null,
    parseSpecial: false,
    vocabSize: null,
  });
  return data.heldOut.map((row) => ({
    ids: encoder.encodePrompt(row).ids,
    text: row.input === "" ? row.instruction : `${row.instruction}\n\n${row.input}`,
    references: [row.output],
  }));
}

/** Fine-tunes the base on the instructions, with and without noise, and measures it and every run. */
export async function sweepAlphas(
  place: Workplace,
  data: DemoData,
): Promise<{ base: SettingResult; results: SettingResult[] }> {
  const { context, openDevice, seed } = place;
  const questions = questionsOf(place, data);
  const runner = new SweepRunner(
    { prompts: async () => questions, maxNewTokens: LONGEST_ANSWER, holdoutSeed: seed, openDevice },
    context,
  );
  try {
    const results: SettingResult[] = [];
    for (const alpha of ALPHAS) {
      const runs: SweepRun[] = [];
      for (let i = 0; i < SEEDS; i++) {
        const label = `alpha-${alpha}-seed-${i + 1}`;
        context.note(`fine-tuning with LoRA, alpha ${alpha}, seed ${seed + i}`);
        const options = { ...fineTuning, alpha, seed: seed + i };
        const request = requestOf(place, label, "base", "lora", "train.jsonl", options);
        const measures = await runner.run({ label, request }, reporterOf(context, label));
        runs.push({ path: request.output, seed: seed + i, measures });
      }
      results.push({ name: `alpha ${alpha}`, values: { alpha }, runs });
    }
    const asBase = requestOf(place, "base", "base", "full", "train.jsonl", {
      batchSize: fineTuning.batchSize,
    });
    const request = { ...asBase, evalDatasets: requestOf(place, "", "base", "lora", "", {}).evalDatasets! };
    const measures = await runner.measure({ label: "base", request });
    return { base: { name: "base", values: {}, runs: [{ path: request.output, seed, measures }] }, results };
  } finally {
    runner.close();
  }
}
