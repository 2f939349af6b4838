// A prompt and what is made of it.

import type { SamplingOptions } from "../native/index.ts";
import type { TokenChances } from "./token-chances.ts";

export interface SequenceOptions extends Partial<SamplingOptions> {
  maxNewTokens: number;
  /** Any of these ends the sequence; it is kept as its last token. Empty: it runs to maxNewTokens. */
  eosIds: readonly number[];
  /** Tells the random draws of sequences with one seed apart. Default 0. */
  draw?: number;
  /** Log probabilities of new tokens, and of so many of the likeliest beside each; absent: none are computed. */
  logprobs?: number;
  /** Those of the prompt's tokens as well, which reads all of it anew. */
  promptLogprobs?: boolean;
  /** Called for every new token as it comes. */
  onToken?: (token: number) => void;
}

/** stop: an EOS ended it, or its owner did; length: maxNewTokens did. */
export type FinishReason = "stop" | "length";

export class Sequence {
  readonly prompt: Int32Array;
  readonly options: SequenceOptions;
  readonly sampling: SamplingOptions;
  /** New tokens, the ending EOS included. */
  readonly output: number[] = [];
  /** Of each new token, where they were asked for. */
  readonly chances: TokenChances[] = [];
  /** Of each token of the prompt but the first, likewise. */
  readonly promptChances: TokenChances[] = [];
  /** How many of the prompt's first tokens were in the cache already. */
  readonly cachedTokens: number;
  finishReason: FinishReason | null = null;

  constructor(prompt: Int32Array, options: SequenceOptions, cachedTokens: number) {
    this.prompt = prompt;
    this.options = options;
    this.sampling = { temperature: 0, topK: 0, topP: 1, repetitionPenalty: 1, seed: 0, ...options };
    this.cachedTokens = cachedTokens;
  }
}
