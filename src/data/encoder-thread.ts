// An encoder in a thread of its own, for commands that take one row after the other: whatever a template or a tokenizer
// does with a row, a signal is heard meanwhile.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { InterruptedError, NeftuneError } from "../errors.ts";
import { type EncodedSample, Encoder, type EncoderOptions, type Prompt } from "./encode.ts";
import { RowProblem } from "./fields.ts";
import { Tokenizer } from "./tokenizer.ts";
import { workerUrl } from "./worker-url.ts";

/** What the thread is asked, one thing at a time. */
export type EncoderQuestion =
  | { kind: "sample"; row: unknown }
  | { kind: "prompt"; row: unknown }
  | { kind: "end-of-turn" };

/** What the thread is sent: first the tokenizer and options, then questions. */
export type EncoderRequest =
  | { kind: "open"; tokenizerDir: string; options: EncoderOptions }
  | { kind: "ask"; question: EncoderQuestion };

export type EncoderAnswer =
  | { kind: "value"; value: unknown }
  | { kind: "row"; reason: string }
  | { kind: "failed"; code: string; message: string };

/** An encoder of a folder's tokenizer; of a folder without one it takes rows of ids alone. */
export function openEncoder(tokenizerDir: string, options: EncoderOptions): Encoder {
  const load = () => Tokenizer.load(tokenizerDir);
  return new Encoder(existsSync(join(tokenizerDir, "tokenizer.json")) ? load() : load, options);
}

/** Answers a question as the thread does. */
export function answered(encoder: () => Encoder, question: EncoderQuestion): EncoderAnswer {
  try {
    switch (question.kind) {
      case "sample":
        return { kind: "value", value: encoder().encode(question.row) };
      case "prompt":
        return { kind: "value", value: encoder().encodePrompt(question.row) };
      case "end-of-turn":
        return { kind: "value", value: encoder().endOfTurnId() };
    }
  } catch (error) {
    if (error instanceof RowProblem) return { kind: "row", reason: error.message };
    const code = error instanceof NeftuneError ? error.code : "internal";
    return { kind: "failed", code, message: error instanceof Error ? error.message : String(error) };
  }
}

export class EncoderThread {
  readonly #thread: Worker;
  readonly #signal: AbortSignal;
  readonly #stop: () => void;
  #waiting: PromiseWithResolvers<EncoderAnswer> | null = null;

  /** Once `signal` aborts, questions throw InterruptedError. `close` ends the thread. */
  constructor(tokenizerDir: string, options: EncoderOptions, signal: AbortSignal) {
    this.#signal = signal;
    this.#stop = () => this.#waiting?.reject(new InterruptedError("stopped while rows were read"));
    signal.addEventListener("abort", this.#stop);
    this.#thread = new Worker(workerUrl("data/encoder-worker"));
    this.#thread.onerror = ({ message }) => {
      this.#waiting?.reject(new NeftuneError("internal", `the thread that reads rows failed: ${message}`));
    };
    this.#thread.onmessage = ({ data }: MessageEvent<EncoderAnswer>) => this.#waiting?.resolve(data);
    this.#thread.postMessage({ kind: "open", tokenizerDir, options } satisfies EncoderRequest);
  }

  /** A row as a training sample. Throws RowProblem. */
  encode(row: unknown): Promise<EncodedSample> {
    return this.#ask({ kind: "sample", row }) as Promise<EncodedSample>;
  }

  /** A row as a prompt. Throws RowProblem. */
  encodePrompt(row: unknown): Promise<Prompt> {
    return this.#ask({ kind: "prompt", row }) as Promise<Prompt>;
  }

  /** See Encoder. */
  endOfTurnId(): Promise<number | null> {
    return this.#ask({ kind: "end-of-turn" }) as Promise<number | null>;
  }

  close(): void {
    this.#signal.removeEventListener("abort", this.#stop);
    this.#thread.terminate();
  }

  async #ask(question: EncoderQuestion): Promise<unknown> {
    this.#waiting = Promise.withResolvers<EncoderAnswer>();
    if (this.#signal.aborted) this.#stop();
    this.#thread.postMessage({ kind: "ask", question } satisfies EncoderRequest);
    const answer = await this.#waiting.promise;
    if (answer.kind === "row") throw new RowProblem(answer.reason);
    if (answer.kind === "failed") throw new NeftuneError(answer.code, answer.message);
    return answer.value;
  }
}

/** Does some work with an encoder in a thread, and ends the thread. */
export async function withEncoder<T>(
  tokenizerDir: string,
  options: EncoderOptions,
  signal: AbortSignal,
  work: (encoder: EncoderThread) => Promise<T>,
): Promise<T> {
  const encoder = new EncoderThread(tokenizerDir, options, signal);
  try {
    return await work(encoder);
  } finally {
    encoder.close();
  }
}
