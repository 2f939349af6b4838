// Completions of a list of prompts, some at a time. Noise never acts here.

import { NeftuneError } from "../errors.ts";
import { finish, type Steps } from "../steps.ts";
import type { Llama } from "./llama.ts";
import type { Sequence, SequenceOptions } from "./sequence.ts";
import { GenerationSession } from "./session.ts";

export interface GenerateOptions
  extends Omit<SequenceOptions, "draw" | "onToken" | "logprobs" | "promptLogprobs"> {
  /** Prompts at a time; when one ends, the next takes its place. Default: all at once. */
  batchSize?: number;
  /** Index of the first prompt in the whole run: random draws do not depend on how prompts are batched. */
  firstDraw?: number;
  /** Called for every new token, with the index of its prompt, as it comes. */
  onToken?: (prompt: number, token: number) => void;
  /** Called when a prompt's completion is whole. */
  onDone?: (prompt: number, output: Int32Array) => void;
}

/** Continues each prompt (token ids, at least one) and returns the new tokens, the ending EOS included. Greedy unless a temperature is given. */
export function generate(
  model: Llama,
  prompts: readonly Int32Array[],
  options: GenerateOptions,
): Int32Array[] {
  return finish(generateInSteps(model, prompts, options));
}

/** `generate`, a token of each prompt at a time. Its return() frees the caches. */
export function* generateInSteps(
  model: Llama,
  prompts: readonly Int32Array[],
  options: GenerateOptions,
): Steps<Int32Array[]> {
  if (prompts.length === 0 || options.maxNewTokens < 1) return prompts.map(() => new Int32Array(0));
  for (const [i, prompt] of prompts.entries()) {
    if (prompt.length === 0)
      throw new NeftuneError("generate", `prompt ${i} is empty: at least one token (BOS) is needed`);
  }
  const { batchSize = prompts.length, firstDraw = 0, onToken, onDone, ...rest } = options;
  const longest = prompts.reduce((most, prompt) => Math.max(most, prompt.length), 0);
  const slots = Math.min(batchSize, prompts.length);
  const session = new GenerationSession(model, { slots, capacity: longest + options.maxNewTokens });
  const outputs: Int32Array[] = [];
  let running: { index: number; sequence: Sequence }[] = [];
  let next = 0;
  try {
    while (next < prompts.length || running.length > 0) {
      while (next < prompts.length && session.freeSlots > 0) {
        const index = next++;
        const own = {
          ...rest,
          draw: firstDraw + index,
          onToken: (token: number) => onToken?.(index, token),
        };
        running.push({ index, sequence: session.add(prompts[index]!, own) });
      }
      session.step();
      running = running.filter(({ index, sequence }) => {
        if (sequence.finishReason === null) return true;
        outputs[index] = Int32Array.from(sequence.output);
        onDone?.(index, outputs[index]);
        return false;
      });
      yield;
    }
  } finally {
    session.close();
  }
  return outputs;
}
