// The demo's steps. Each goes through the same calls as `neftune train`, `eval` and `generate`.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { alpacaPrompt } from "../../data/alpaca.ts";
import { Encoder } from "../../data/encode.ts";
import { loadDataset } from "../../data/load-dataset.ts";
import { promptTemplate } from "../../data/templates.ts";
import { Tokenizer } from "../../data/tokenizer.ts";
import { InterruptedError } from "../../errors.ts";
import { generate, linearModules, loadForInference, parseConfig } from "../../model/index.ts";
import type { Device } from "../../native/index.ts";
import { ANSWERS_FILE } from "../../report/index.ts";
import { evaluate } from "../../train/evaluate.ts";
import { evaluationLimits, mergeLimits, runTraining, type TrainerOptions } from "../../train/index.ts";
import type { Context } from "../command.ts";
import { writeRandomModel } from "../init.ts";
import { drawRows } from "../model-data.ts";
import { progressReporter } from "../progress.ts";
import { type DemoData, type InstructionRow, makeDemoData } from "./data.ts";
import { bosId, eosId, trainTokenizer, writeTokenizer } from "./tokenizer.ts";

const DTYPE = "f32";
const VOCABULARY = 1024;
const MAX_LENGTH = 160;
const EVAL_BATCH = 32;
const LONGEST_ANSWER = 48;

/** Chosen so that all of the demo takes a minute or two on two cores. */
export const baseTraining = {
  alpha: 0,
  epochs: 40,
  batchSize: 16,
  learningRate: 3e-3,
} satisfies Partial<TrainerOptions>;
export const fineTuning = { epochs: 8, batchSize: 16, learningRate: 3e-3 } satisfies Partial<TrainerOptions>;
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

export interface Measured {
  /** Mean cross-entropy per target token, noise off. */
  trainLoss: number;
  heldOutLoss: number;
  /** Share of held-out instructions answered with exactly the expected text, greedily. */
  exact: number;
  /** The answer to each held-out instruction. */
  answers: string[];
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

/** One training, with its curve in OUTPUT/metrics.jsonl. */
async function trainOnce(
  { dir, seed, openDevice, context }: Workplace,
  name: string,
  base: string,
  tune: "lora" | "full",
  file: string,
  options: Partial<TrainerOptions>,
): Promise<void> {
  const dataOf = (name: string) => ({ name, files: [dataFile(dir, name)], weight: 1 });
  const training = runTraining(
    {
      model: { dir: join(dir, base), name: join(dir, base) },
      datasets: [dataOf(file)],
      evalDatasets: tune === "full" ? [] : [dataOf("held-out.jsonl")],
      encoding: { maxLength: MAX_LENGTH },
      tune,
      dtype: DTYPE,
      recompute: "none",
      lora,
      trainer: { ...options, seed },
      output: join(dir, name),
      record: { demo: name, tune },
    },
    openDevice,
    {
      reporter: {
        ...progressReporter(context, name),
        onRows: (path, rows) => drawRows(context, path, rows),
        onPlan: () => context.finishFirst?.(),
        onSave: () => {},
        onEval: () => {},
      },
      signal: context.signal,
    },
  );
  await training.catch((error: unknown) => {
    // The trainer would advise --resume, which a demo has not.
    if (error instanceof InterruptedError)
      throw new InterruptedError("the demo was stopped; run it again from the start");
    throw error;
  });
}

/** Trains all weights of the random model on plain text. */
export const trainBase = (place: Workplace): Promise<void> =>
  trainOnce(place, "base", "start", "full", "base.jsonl", baseTraining);

/** Fine-tunes the base on the instructions. The runs differ in alpha alone. */
export const fineTune = (place: Workplace, name: string, alpha: number): Promise<void> =>
  trainOnce(place, name, "base", "lora", "train.jsonl", { ...fineTuning, alpha });

/** Keeps a run's answers, for its report. */
function writeAnswers(run: string, rows: readonly InstructionRow[], answers: readonly string[]): void {
  const lines = rows.map(({ instruction, input, output: reference }, i) => {
    const question = input === "" ? instruction : `${instruction}\n\n${input}`;
    return { instruction: question, output: answers[i]!, reference };
  });
  writeFileSync(join(run, ANSWERS_FILE), rowsText(lines));
}

/** Loss on training and held-out rows, and the answers to the held-out instructions. */
export async function measure(
  place: Workplace,
  data: DemoData,
  adapter: string | undefined,
): Promise<Measured> {
  const { dir, openDevice, context } = place;
  const base = join(dir, "base");
  const load = (file: string) =>
    loadDataset({ path: dataFile(dir, file), tokenizerDir: base, maxLength: MAX_LENGTH, cacheDir: null });
  const train = await load("train.jsonl");
  const heldOut = await load("held-out.jsonl");
  const limits = mergeLimits(
    evaluationLimits(train, EVAL_BATCH, true),
    evaluationLimits(heldOut, EVAL_BATCH, true),
  );
  const device = openDevice();
  try {
    const model = loadForInference(
      device,
      { dir: base, adapter: adapter === undefined ? undefined : join(dir, adapter), dtype: DTYPE },
      {
        maxTokens: limits.maxTokens,
        maxTargets: limits.maxTargets,
        maxPosition: limits.maxPosition + LONGEST_ANSWER,
      },
    );
    try {
      const options = { batchSize: EVAL_BATCH, packing: true, signal: context.signal };
      const trainLoss = (await evaluate(model, train, options)).loss;
      const heldOutLoss = (await evaluate(model, heldOut, options)).loss;
      const tokenizer = Tokenizer.load(base);
      const encoder = new Encoder(tokenizer, {
        template: promptTemplate("alpaca"),
        maxLength: null,
        parseSpecial: false,
        vocabSize: null,
      });
      const answers: string[] = [];
      for (let begin = 0; begin < data.heldOut.length; begin += EVAL_BATCH) {
        context.draw(`${adapter ?? "base"}: answering ${begin}/${data.heldOut.length}`);
        const prompts = data.heldOut
          .slice(begin, begin + EVAL_BATCH)
          .map((row) => encoder.encodePrompt(row).ids);
        const outputs = generate(model, prompts, { maxNewTokens: LONGEST_ANSWER, eosIds: [eosId] });
        answers.push(...outputs.map((ids) => tokenizer.decode(ids, { skipSpecial: true }).trim()));
      }
      if (adapter !== undefined) writeAnswers(join(dir, adapter), data.heldOut, answers);
      const right = answers.filter((answer, i) => answer === data.heldOut[i]!.output).length;
      return { trainLoss, heldOutLoss, exact: right / answers.length, answers };
    } finally {
      model.close();
    }
  } finally {
    context.draw("");
    device.close();
  }
}
