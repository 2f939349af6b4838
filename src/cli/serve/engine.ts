// Requests' sequences on their way through the models: each waits for a place, and all that have one advance together,
// a token a step. Between steps the server hears its clients.

import { TextStream } from "../../data/text-stream.ts";
import type { FinishReason, Sequence, SequenceOptions } from "../../model/index.ts";
import { eventsTurn } from "../../steps.ts";
import type { ServedModel } from "../inputs/served-model.ts";
import { ApiError } from "./errors.ts";
import type { Metrics } from "./metrics.ts";

export interface Wish {
  served: ServedModel;
  prompt: Int32Array;
  options: Omit<SequenceOptions, "eosIds" | "onToken">;
  /** The answer's text goes on from the prompt's: it keeps a first space that tokens alone would lose. */
  isContinued?: boolean;
  /** Texts that end an answer; they are not part of it. */
  stops: readonly string[];
  /** Aborts when the client has gone or waited too long. */
  signal: AbortSignal;
  /** Text that is certain, with the new tokens of the sequence so far; perhaps none. */
  onText?: (text: string, sequence: Sequence) => void;
}

export interface Answer {
  sequence: Sequence;
  text: string;
  finishReason: FinishReason;
}

interface Job extends Wish {
  resolve: (answer: Answer) => void;
  reject: (error: unknown) => void;
  since: number;
  running: { sequence: Sequence; stream: TextStream; text: string } | null;
}

export class Engine {
  readonly #metrics: Metrics;
  readonly #maxWaiting: number;
  #waiting: Job[] = [];
  #running: Job[] = [];
  #isLooping = false;

  /** More than `maxWaiting` sequences that wait for a place are refused. */
  constructor(maxWaiting: number, metrics: Metrics) {
    this.#maxWaiting = maxWaiting;
    this.#metrics = metrics;
    metrics.declare("neftune_prompt_tokens_total", "Tokens of prompts.");
    metrics.declare("neftune_cached_prompt_tokens_total", "Of these, tokens that were in the cache.");
    metrics.declare("neftune_generated_tokens_total", "New tokens.");
    metrics.declare("neftune_first_token_seconds", "From a request to its first new token.", "summary");
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get running(): number {
    return this.#running.length;
  }

  get isIdle(): boolean {
    return this.waiting + this.running === 0;
  }

  /** Throws ApiError (429) where so many more sequences of a model find neither a place nor room to wait. */
  expectRoom({ session }: ServedModel, sequences: number): void {
    if (this.waiting + sequences <= this.#maxWaiting + session.freeSlots) return;
    const others = this.waiting === 0 ? "" : ` ${this.waiting} wait already;`;
    throw new ApiError(
      429,
      `${sequences} more sequences find no room;${others} try again later, or ask for fewer at once`,
      {
        code: "queue_full",
        headers: { "retry-after": "1" },
      },
    );
  }

  /** Answers when the sequence is whole. Rejects with the signal's reason where it aborts before. */
  run(wish: Wish): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ ...wish, resolve, reject, since: performance.now(), running: null });
      this.#loop();
    });
  }

  async #loop(): Promise<void> {
    if (this.#isLooping) return;
    this.#isLooping = true;
    try {
      // What came in the same turn of the event loop begins together.
      await eventsTurn();
      while (!this.isIdle) {
        this.#dropAborted();
        this.#admit();
        for (const served of new Set(this.#running.map((job) => job.served))) this.#step(served);
        this.#settle();
        await eventsTurn();
      }
    } finally {
      this.#isLooping = false;
    }
  }

  #dropAborted(): void {
    for (const job of [...this.#waiting, ...this.#running]) {
      if (!job.signal.aborted) continue;
      if (job.running !== null) job.served.session.remove(job.running.sequence);
      job.reject(job.signal.reason);
    }
    this.#waiting = this.#waiting.filter(({ signal }) => !signal.aborted);
    this.#running = this.#running.filter(({ signal }) => !signal.aborted);
  }

  /** In order of arrival; a model that is full lets others pass. */
  #admit(): void {
    this.#waiting = this.#waiting.filter((job) => {
      const { served, prompt, options, stops, isContinued = false } = job;
      if (served.session.freeSlots === 0) return true;
      const stream = new TextStream(served.tokenizer, stops, isContinued ? prompt : []);
      const onToken = (token: number) => this.#onToken(job, token);
      try {
        const sequence = served.session.add(prompt, { ...options, eosIds: served.eosIds, onToken });
        job.running = { sequence, stream, text: "" };
        this.#running.push(job);
        this.#metrics.add("neftune_prompt_tokens_total", prompt.length);
        this.#metrics.add("neftune_cached_prompt_tokens_total", sequence.cachedTokens);
      } catch (error) {
        job.reject(error);
      }
      return false;
    });
  }

  #step(served: ServedModel): void {
    try {
      served.session.step();
    } catch (error) {
      // Every sequence of the model was part of the step.
      for (const job of this.#running.filter((one) => one.served === served)) {
        served.session.remove(job.running!.sequence);
        job.reject(error);
      }
      this.#running = this.#running.filter((one) => one.served !== served);
    }
  }

  #onToken(job: Job, token: number): void {
    const { sequence, stream } = job.running!;
    if (sequence.output.length === 1) {
      this.#metrics.add("neftune_first_token_seconds_sum", (performance.now() - job.since) / 1000);
      this.#metrics.add("neftune_first_token_seconds_count", 1);
    }
    this.#metrics.add("neftune_generated_tokens_total", 1);
    this.#say(job, stream.push(token));
    if (stream.isStopped) job.served.session.remove(sequence, "stop");
  }

  #say(job: Job, text: string): void {
    job.running!.text += text;
    job.onText?.(text, job.running!.sequence);
  }

  #settle(): void {
    this.#running = this.#running.filter((job) => {
      const { sequence, stream } = job.running!;
      if (sequence.finishReason === null) return true;
      this.#say(job, stream.end());
      const { text } = job.running!;
      const finishReason = stream.isStopped ? "stop" : sequence.finishReason;
      job.resolve({ sequence, text, finishReason });
      return false;
    });
  }
}
