// What a sweep measures of a trained run: losses with noise off, and answers to prompts that it was not trained on.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Measures, measureOutputs } from "../../analysis/outputs.ts";
import type { Dataset } from "../../data/dataset.ts";
import { IGNORE, type Sample } from "../../data/sample.ts";
import { contentHashOf } from "../../data/samples.ts";
import { Tokenizer } from "../../data/tokenizer.ts";
import { InterruptedError } from "../../errors.ts";
import { generateInSteps, type Llama, loadForInference } from "../../model/index.ts";
import type { Device } from "../../native/index.ts";
import { countOf } from "../../numbers.ts";
import { ANSWERS_FILE } from "../../report/index.ts";
import { finishUnlessAborted } from "../../steps.ts";
import {
  evaluate,
  evaluationSizes,
  loadedBudget,
  loadLimits,
  type RunRequest,
  type SamplePrompt,
  trainerDefaults,
} from "../../train/index.ts";
import type { Context } from "../command.ts";
import { rowsText } from "../completions.ts";

/** Samples that training loss with noise off is measured on: the first ones. */
const TRAIN_SAMPLES = 512;
/** Prompts that are read and answered at once. */
const ANSWER_BATCH = 16;
const PREFILL_TOKENS = 2048;

/** A prompt and what is known of its answer. */
export type Question = SamplePrompt;

export interface RunMeasures {
  /** Both with noise off, over all target tokens. */
  train_loss: number;
  held_out_loss: number;
  /** The hash of what the held-out loss is over: tokens and labels. */
  held_out: string;
  /** Share of answers that are a reference, but for white space at their ends; null without references. */
  exact: number | null;
  answers: Omit<Measures, "measured" | "compared" | "empty">;
}

/** The question of a held-out sample: all before its last answer, which is the reference. Null where it has none. */
export function questionOf({ ids, labels }: Sample, tokenizer: Tokenizer): Question | null {
  let end = labels.length;
  while (end > 0 && labels[end - 1] === IGNORE) end--;
  let begin = end;
  while (begin > 0 && labels[begin - 1] !== IGNORE) begin--;
  if (begin === 0 || begin === end) return null;
  const textOf = (some: Int32Array) => tokenizer.decode(some, { skipSpecial: true });
  const prompt = ids.slice(0, begin);
  return { ids: prompt, text: textOf(prompt), references: [textOf(ids.slice(begin, end)).trim()] };
}

/** The questions of the first `count` held-out samples that have one. */
export function questionsOf(held: Dataset, count: number, tokenizerDir: string): Question[] {
  const tokenizer = Tokenizer.load(tokenizerDir);
  const questions: Question[] = [];
  for (let i = 0; i < held.length && questions.length < count; i++) {
    const question = questionOf(held.get(i), tokenizer);
    if (question !== null) questions.push(question);
  }
  return questions;
}

export interface MeasureRequest {
  request: RunRequest;
  train: Dataset;
  held: Dataset;
  questions: readonly Question[];
  maxNewTokens: number;
  /** For the line that shows how far it is. */
  label: string;
}

/** Measures a run that has been trained, and keeps its answers in its folder. Throws InterruptedError. */
export async function measureRun(
  device: Device,
  { request, train, held, questions, maxNewTokens, label }: MeasureRequest,
  context: Context,
): Promise<RunMeasures> {
  const { output, model: base, tune, dtype, quantization, trainer } = request;
  const { batchSize = trainerDefaults.batchSize, microBatchTokens = null } = trainer;
  const batches = { batchSize, packing: true };
  const part = Array.from({ length: Math.min(train.length, TRAIN_SAMPLES) }, (_, i) => train.get(i));
  const longest = questions.reduce((most, { ids }) => Math.max(most, ids.length), 0);
  const sizes = evaluationSizes([part, held], { ...batches, microBatchTokens }).map((size) => ({
    ...size,
    limits: {
      ...size.limits,
      maxTokens: Math.max(size.limits.maxTokens, longest, PREFILL_TOKENS),
      maxPosition: Math.max(size.limits.maxPosition, longest + maxNewTokens),
    },
  }));
  const model = loadForInference(
    device,
    tune === "full"
      ? { dir: output, adapter: undefined, dtype, quantization: null }
      : { dir: base.dir, adapter: output, dtype, quantization },
    loadLimits(sizes),
  );
  try {
    const options = (what: string, total: number) => ({
      ...{ ...batches, microBatchTokens: loadedBudget(model, sizes), signal: context.signal },
      onProgress: (done: number) => context.draw(`${label}: ${what} ${done} of ${total}`),
    });
    const trainLoss = await evaluate(model, part, options("loss on training samples", part.length));
    const heldLoss = await evaluate(model, held, options("loss on held-out samples", held.length));
    const outputs = await answer(model, base.dir, questions, maxNewTokens, label, context);
    const rows = questions.map(({ text, references }, i) => ({
      instruction: text,
      output: outputs[i]!,
      references,
    }));
    writeFileSync(join(output, ANSWERS_FILE), rowsText(ANSWERS_FILE, rows));
    const {
      measured: _m,
      compared,
      empty: _e,
      ...answers
    } = measureOutputs(
      questions.map(({ references }, i) => ({ text: outputs[i]!, references })),
      null,
    );
    const right = questions.filter(({ references }, i) => references.includes(outputs[i]!)).length;
    return {
      train_loss: trainLoss.loss,
      held_out_loss: heldLoss.loss,
      held_out: contentHashOf(held),
      exact: compared === 0 ? null : right / compared,
      answers,
    };
  } finally {
    context.draw("");
    model.close();
  }
}

async function answer(
  model: Llama,
  tokenizerDir: string,
  questions: readonly Question[],
  maxNewTokens: number,
  label: string,
  context: Context,
): Promise<string[]> {
  const tokenizer = Tokenizer.load(tokenizerDir);
  const eosIds = [...new Set([...tokenizer.eosIds, ...model.config.eosTokenIds])];
  const outputs: string[] = [];
  for (let begin = 0; begin < questions.length; begin += ANSWER_BATCH) {
    context.draw(`${label}: answering ${begin} of ${countOf(questions.length, "prompt")}`);
    const prompts = questions.slice(begin, begin + ANSWER_BATCH).map(({ ids }) => ids);
    const steps = generateInSteps(model, prompts, { maxNewTokens, eosIds });
    const done = await finishUnlessAborted(steps, context.signal);
    if (done === null) throw new InterruptedError("the answers were not finished");
    outputs.push(...done.map((ids) => tokenizer.decode(ids, { skipSpecial: true }).trim()));
  }
  return outputs;
}
