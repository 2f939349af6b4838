// Greedy answers to a few prompts while training, into samples.jsonl: what the model says after so many steps.

import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ioError, writeTextAtomically } from "../formats/io.ts";
import { generate, type Llama } from "../model/index.ts";
import { SAMPLES_FILE } from "../report/answers.ts";
import type { BatchLimits } from "./order.ts";
import type { RunReporter } from "./recipe.ts";

export interface SamplePrompt {
  ids: Int32Array;
  /** What was asked, for whoever reads the answers. */
  text: string;
  /** What is expected; empty where that is not known. */
  references: readonly string[];
}

export interface Sampling {
  prompts: readonly SamplePrompt[];
  /** Answers after every so many steps, and after the last. */
  every: number;
  maxNewTokens: number;
  eosIds: readonly number[];
  decode: (ids: ArrayLike<number>) => string;
  /** Hears how many tokens at most each answer has so far. */
  onProgress?: (tokens: number) => void;
}

/** What a model has to be loaded for, to answer the prompts between steps. */
export function samplingLimits({
  prompts,
  maxNewTokens,
}: Pick<Sampling, "prompts" | "maxNewTokens">): BatchLimits {
  const longest = prompts.reduce((most, { ids }) => Math.max(most, ids.length), 0);
  return {
    maxTokens: Math.max(longest, prompts.length),
    maxTargets: 1,
    maxSequences: prompts.length,
    maxPosition: longest + maxNewTokens,
  };
}

/** Listens to a run and takes the samples. `output` is the run's folder; a resumed run's later lines are cut off first. */
export function samplingReporter(output: string, sampling: Sampling): RunReporter {
  const path = join(output, SAMPLES_FILE);
  let model: Llama | null = null;
  return {
    onModel: (loaded) => {
      model = loaded;
    },
    onPlan: ({ startStep }) => rewind(path, startStep),
    onStep({ step }, { totalSteps }) {
      if (model === null || (step % sampling.every !== 0 && step !== totalSteps)) return;
      const { prompts, decode } = sampling;
      const outputs = answersOf(model, sampling);
      const lines = prompts.map(({ text, references }, i) => {
        const row = { step, prompt: text, output: decode(outputs[i]!).trim() };
        return `${JSON.stringify(references.length === 0 ? row : { ...row, references })}\n`;
      });
      try {
        appendFileSync(path, lines.join(""));
      } catch (error) {
        throw ioError(path, "written", error);
      }
    },
  };
}

function answersOf(model: Llama, { prompts, maxNewTokens, eosIds, onProgress }: Sampling): Int32Array[] {
  const ids = prompts.map((prompt) => prompt.ids);
  const lengths = new Uint32Array(ids.length);
  let longest = 0;
  onProgress?.(0);
  const onToken = (prompt: number) => {
    if (++lengths[prompt]! > longest) onProgress?.(++longest);
  };
  return generate(model, ids, { maxNewTokens, eosIds, onToken });
}

/** Cuts off the lines of steps after `step`, and a torn last one. */
function rewind(path: string, step: number): void {
  if (!existsSync(path)) return;
  const kept = readFileSync(path, "utf8")
    .split("\n")
    .slice(0, -1)
    .filter((line) => isUpTo(line, step));
  writeTextAtomically(path, kept.map((line) => `${line}\n`).join(""));
}

function isUpTo(line: string, step: number): boolean {
  try {
    return JSON.parse(line).step <= step;
  } catch {
    return false;
  }
}
