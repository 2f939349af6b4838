// POST /v1/completions: prompts as text or token ids, one or a list; with echo, the prompt and its log probabilities.
// Without it, the text is that of the new tokens alone, as Transformers decodes them and lm-eval compares them.

import type { Sequence, TokenChances } from "../../model/index.ts";
import type { ServedModel } from "../inputs/served-model.ts";
import type { Engine } from "./engine.ts";
import type { RequestFields } from "./fields.ts";
import { MOST_LOGPROBS, readWanted, roomFor, usageOf, type Wanted } from "./sampling.ts";
import { eventStream } from "./stream.ts";

/** A request on its way: who asked what of which model. */
export interface Call {
  engine: Engine;
  served: ServedModel;
  /** The model's name, for the answer. */
  name: string;
  fields: RequestFields;
  signal: AbortSignal;
  /** Ends the request's sequences. */
  abort: () => void;
}

interface Choice {
  index: number;
  text: string;
  logprobs: Logprobs | null;
  finish_reason: string | null;
}

interface Logprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[] | null;
  text_offset: number[];
}

/** Prompts of one request. */
const MOST_PROMPTS = 2048;

export async function completions(call: Call): Promise<Response> {
  const { fields, served, engine, name } = call;
  fields.refuseUnless("suffix", [""]);
  const wanted = readWanted(fields);
  const isEchoed = fields.flag("echo");
  const logprobs =
    fields.get("logprobs") === undefined ? null : fields.whole("logprobs", 0, 0, MOST_LOGPROBS);
  const most = fields.whole("max_tokens", 16, isEchoed ? 0 : 1);
  const prompts = readPrompts(fields, served);
  for (const { ids } of prompts) roomFor(fields, served, ids, most);
  engine.expectRoom(served, prompts.length * wanted.choices);
  const head = { id: `cmpl-${crypto.randomUUID()}`, object: "text_completion", created: now(), model: name };
  const wish = { call, wanted, isEchoed, logprobs, most };
  const jobs = prompts.flatMap((prompt, i) =>
    Array.from({ length: wanted.choices }, (_, draw) => ({ prompt, draw, index: i * wanted.choices + draw })),
  );
  const promptTokens = prompts.reduce((sum, { ids }) => sum + ids.length, 0);
  if (!wanted.isStreamed) {
    const done = await Promise.all(jobs.map((job) => complete({ ...wish, ...job })));
    const tokens = done.reduce((sum, one) => sum + one.tokens, 0);
    const usage = usageOf(promptTokens, tokens);
    return Response.json({ ...head, choices: done.map(({ choice }) => choice), usage });
  }
  return eventStream(async (send) => {
    const part = (choice: Choice) => send({ ...head, choices: [choice] });
    const done = await Promise.all(jobs.map((job) => complete({ ...wish, ...job, onPart: part })));
    const tokens = done.reduce((sum, one) => sum + one.tokens, 0);
    if (wanted.withUsage) send({ ...head, choices: [], usage: usageOf(promptTokens, tokens) });
  }, call.abort);
}

export const now = () => Math.floor(Date.now() / 1000);

/** A prompt, and what of it is echoed. */
interface Prompt {
  ids: Int32Array;
  text: string;
}

function readPrompts(fields: RequestFields, { model, tokenizer }: ServedModel): Prompt[] {
  const value = fields.get("prompt");
  const isIds = (one: unknown): one is number[] =>
    Array.isArray(one) && one.length > 0 && one.every((id) => Number.isInteger(id));
  const list = Array.isArray(value) && !isIds(value) ? value : [value];
  if (list.length === 0 || list.length > MOST_PROMPTS)
    fields.fail("prompt", `expected 1 to ${MOST_PROMPTS} prompts, got ${list.length}`);
  const { vocabSize } = model.config;
  return list.map((one) => {
    if (typeof one === "string")
      return { ids: tokenizer.encode(one, { addBos: true, parseSpecial: true }), text: one };
    if (!isIds(one)) fields.fail("prompt", "expected a text, token ids, or a list of texts or of token ids");
    const odd = one.find((id) => id < 0 || id >= vocabSize);
    if (odd !== undefined) fields.fail("prompt", `token id ${odd} is outside the vocabulary of ${vocabSize}`);
    return { ids: Int32Array.from(one), text: tokenizer.decode(one, { skipSpecial: true }) };
  });
}

interface Job {
  call: Call;
  wanted: Wanted;
  prompt: Prompt;
  draw: number;
  index: number;
  isEchoed: boolean;
  logprobs: number | null;
  most: number;
  onPart?: (choice: Choice) => void;
}

async function complete(job: Job): Promise<{ choice: Choice; tokens: number }> {
  const { call, wanted, prompt, draw, index, isEchoed, logprobs, most, onPart } = job;
  const { served, engine, signal } = call;
  const writer = new LogprobWriter(served, logprobs);
  const echo = isEchoed ? prompt.text : "";
  let isBegun = false;
  /** What there is of the choice since the last time. */
  const next = (text: string, sequence: Sequence, reason: string | null): Choice => {
    const all = isBegun ? text : echo + text;
    if (isEchoed && !isBegun) writer.addPrompt(prompt.ids, sequence);
    isBegun = true;
    return { index, text: all, logprobs: writer.take(sequence), finish_reason: reason };
  };
  const options = {
    ...wanted.sampling,
    ...{ draw, maxNewTokens: most },
    ...(logprobs === null ? {} : { logprobs, promptLogprobs: isEchoed }),
  };
  const answer = await engine.run({
    ...{ served, prompt: prompt.ids, options, stops: wanted.stops, signal, isContinued: isEchoed },
    ...(onPart === undefined
      ? {}
      : { onText: (text, sequence) => text !== "" && onPart(next(text, sequence, null)) }),
  });
  const { sequence, finishReason } = answer;
  const last = next(onPart === undefined ? answer.text : "", sequence, finishReason);
  onPart?.(last);
  return { choice: last, tokens: sequence.output.length };
}

/** Log probabilities in OpenAI's older form, in order of the tokens. */
class LogprobWriter {
  readonly #served: ServedModel;
  readonly #count: number | null;
  #offset = 0;
  #written = 0;
  #waiting: Logprobs = emptyLogprobs();

  constructor(served: ServedModel, count: number | null) {
    this.#served = served;
    this.#count = count;
  }

  addPrompt(prompt: Int32Array, { promptChances }: Sequence): void {
    if (this.#count === null) return;
    for (const [i, id] of prompt.entries()) this.#add(id, i === 0 ? null : promptChances[i - 1]!);
  }

  /** Those of new tokens that have not been written, with the prompt's where they were added. */
  take({ output, chances }: Sequence): Logprobs | null {
    if (this.#count === null) return null;
    for (; this.#written < output.length; this.#written++)
      this.#add(output[this.#written]!, chances[this.#written]!);
    const all = this.#waiting;
    this.#waiting = emptyLogprobs();
    if (this.#count === 0) all.top_logprobs = null;
    return all;
  }

  #add(id: number, chances: TokenChances | null): void {
    const { tokens, token_logprobs, top_logprobs, text_offset } = this.#waiting;
    const text = this.#text(id);
    tokens.push(text);
    text_offset.push(this.#offset);
    this.#offset += text.length;
    token_logprobs.push(chances?.logprob ?? null);
    top_logprobs!.push(chances === null ? null : this.#top(text, chances));
  }

  /** By text; of tokens with the same text, the likeliest. The token itself is always among them. */
  #top(text: string, { logprob, top }: TokenChances): Record<string, number> {
    const byText = new Map<string, number>();
    for (const { id, logprob: one } of top) {
      const own = this.#text(id);
      if (!byText.has(own)) byText.set(own, one);
    }
    if (!byText.has(text)) byText.set(text, logprob);
    return Object.fromEntries(byText);
  }

  #text = (id: number) => this.#served.tokenText(id);
}

const emptyLogprobs = (): Logprobs => ({
  tokens: [],
  token_logprobs: [],
  top_logprobs: [],
  text_offset: [],
});
