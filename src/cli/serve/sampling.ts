// What completions and chats have in common in a request: how tokens are chosen, how many, what ends them.

import type { SequenceOptions } from "../../model/index.ts";
import type { ServedModel } from "../inputs/served-model.ts";
import type { RequestFields } from "./fields.ts";

/** OpenAI's most stop strings and likeliest tokens; completions of one prompt. */
const MOST_STOPS = 16;
export const MOST_LOGPROBS = 20;
const MOST_CHOICES = 128;

export interface Wanted {
  /** Of one prompt, each with draws of its own. */
  choices: number;
  sampling: Omit<SequenceOptions, "eosIds" | "onToken" | "maxNewTokens">;
  stops: string[];
  isStreamed: boolean;
  /** A stream's last part has the usage. */
  withUsage: boolean;
}

/** Throws ApiError for a field that is malformed, or that would change the answer and is not followed. */
export function readWanted(fields: RequestFields): Wanted {
  for (const name of ["presence_penalty", "frequency_penalty"]) fields.refuseUnless(name, [0]);
  fields.refuseUnless("logit_bias", [{}]);
  const choices = fields.whole("n", 1, 1, MOST_CHOICES);
  fields.refuseUnless("best_of", [1, choices]);
  const streamOptions = fields.get("stream_options");
  const seed = fields.whole("seed", Math.floor(Math.random() * 2 ** 31), 0);
  return {
    choices,
    sampling: {
      temperature: fields.number("temperature", 1, 0, 100),
      topP: fields.number("top_p", 1, Number.MIN_VALUE, 1),
      topK: Math.max(0, fields.whole("top_k", 0, -1)), // vLLM's −1 is all, too
      minP: fields.number("min_p", 0, 0, 1),
      repetitionPenalty: fields.number("repetition_penalty", 1, Number.MIN_VALUE, 100),
      seed,
    },
    stops: fields.texts("stop", MOST_STOPS),
    isStreamed: fields.flag("stream"),
    withUsage: (streamOptions as { include_usage?: unknown } | undefined)?.include_usage === true,
  };
}

/** New tokens that a prompt leaves room for, at most those asked for. Throws ApiError where there is none. */
export function roomFor(
  fields: RequestFields,
  { session }: ServedModel,
  prompt: Int32Array,
  wanted: number | null,
): number {
  const { capacity } = session.options;
  if (prompt.length === 0) fields.fail("prompt", "is empty; the model needs at least one token");
  const room = capacity - prompt.length;
  if (room < Math.min(1, wanted ?? 1) || (wanted !== null && room < wanted)) {
    const asked = wanted === null ? "" : ` and ${wanted} new ones`;
    fields.fail(
      wanted === null ? "messages" : "max_tokens",
      `${prompt.length} tokens${asked} are more than the context of ${capacity} (--context-length)`,
    );
  }
  return wanted ?? room;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

export function usageOf(prompts: number, completions: number): Usage {
  return { prompt_tokens: prompts, completion_tokens: completions, total_tokens: prompts + completions };
}
