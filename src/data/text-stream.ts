// Text of tokens as they come: no half characters, nothing of a stop string, and no stop string that is cut in two.

import type { Tokenizer } from "./tokenizer.ts";

/** Tokens of a prompt that the text behind them can depend on: a space that a first token would lose. */
const CONTEXT_TOKENS = 4;
/** What stands for bytes that are no character, or not one yet. */
const REPLACEMENT = "\ufffd";
/** A token that never becomes characters holds text back for so long. */
const MOST_HELD = 8;

export class TextStream {
  readonly #tokenizer: Tokenizer;
  readonly #stops: readonly string[];
  readonly #ids: number[];
  /** Of #ids, where those begin whose text has not been taken, and before them those of the last text that was. */
  #from: number;
  #read: number;
  /** Text that may be the beginning of a stop string. */
  #held = "";
  /** True once a stop string has come. */
  isStopped = false;

  /** `before`: the tokens that come before the text, such as a prompt's. */
  constructor(tokenizer: Tokenizer, stops: readonly string[] = [], before: ArrayLike<number> = []) {
    this.#tokenizer = tokenizer;
    this.#stops = stops;
    this.#ids = Array.from(before);
    this.#read = this.#ids.length;
    this.#from = Math.max(0, this.#read - CONTEXT_TOKENS);
  }

  /** Adds a token; the text that is certain now, often none. */
  push(id: number): string {
    if (this.isStopped) return "";
    this.#ids.push(id);
    const text = this.#newText();
    if (text.endsWith(REPLACEMENT) && this.#ids.length - this.#read < MOST_HELD) return "";
    this.#taken();
    return this.#released(text);
  }

  /** What is left when no token follows. */
  end(): string {
    if (this.isStopped) return "";
    const text = this.#newText();
    this.#taken();
    const released = this.#released(text);
    if (this.isStopped) return released;
    const rest = this.#held;
    this.#held = "";
    return released + rest;
  }

  #newText(): string {
    const text = (end: number) =>
      this.#tokenizer.decode(this.#ids.slice(this.#from, end), { skipSpecial: true });
    return text(this.#ids.length).slice(text(this.#read).length);
  }

  #taken(): void {
    this.#from = this.#read;
    this.#read = this.#ids.length;
  }

  /** Text without what may be the beginning of a stop string. */
  #released(text: string): string {
    const all = this.#held + text;
    const at = this.#stops.map((stop) => all.indexOf(stop)).filter((index) => index >= 0);
    if (at.length > 0) {
      this.isStopped = true;
      this.#held = "";
      return all.slice(0, Math.min(...at));
    }
    const held = Math.max(0, ...this.#stops.map((stop) => overlap(all, stop)));
    this.#held = all.slice(all.length - held);
    return all.slice(0, all.length - held);
  }
}

/** The most characters at the end of `text` that `stop` begins with. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--)
    if (text.endsWith(stop.slice(0, length))) return length;
  return 0;
}
