// Where turns stand in what a template made of a conversation. The edges come from rendering the conversation's
// beginnings, not from searching for text.

import type { ChatTemplate } from "./chat-template.ts";
import type { Conversation } from "./disguise.ts";
import { RowProblem } from "./fields.ts";
import type { Message } from "./messages.ts";
import type { AnswerSpan } from "./targets.ts";
import type { Section, Tokenizer } from "./tokenizer.ts";

export interface TurnSpan extends AnswerSpan {
  /** True where the turn begins behind what the conversation before it renders to: for an answer, its prompt. */
  isPrompted: boolean;
}

/** A conversation's text with the means to find its turns. */
export class Rendering {
  readonly text: string;
  readonly #conversation: Conversation;
  readonly #template: ChatTemplate;
  readonly #tokenizer: Tokenizer;
  /** A character that the conversation does not have. */
  readonly #mark: string;
  #special: readonly Section[] | undefined;

  /** Throws RowProblem where the template refuses the conversation. */
  constructor(
    conversation: Conversation,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    mark: string,
    addGenerationPrompt = false,
  ) {
    this.#conversation = conversation;
    this.#template = template;
    this.#tokenizer = tokenizer;
    this.#mark = mark;
    this.text = template.render(conversation.messages, conversation.tools, addGenerationPrompt);
  }

  /** Where message `k` and its end-of-turn token stand. */
  turn(k: number): TurnSpan {
    const { text } = this;
    const isAnswer = this.#conversation.messages[k]?.role === "assistant";
    let begin = this.#prefixLength(k, isAnswer);
    let end = this.#prefixLength(k + 1, false);
    const isPrompted = begin !== null;
    const byPrefix = end;
    if (begin === null || end === null || begin > end) {
      const content = this.#contentSpan(k);
      // a token may begin with the space before its word: that is the answer's first token
      while (text[content[0] - 1] === " ") content[0]--;
      begin = begin !== null && begin <= content[0] ? begin : content[0];
      end = end !== null && end >= content[1] ? end : content[1];
    }
    return { begin, ...this.#endOfTurn(begin, end, byPrefix === end), isPrompted };
  }

  /** The first message other than an answer whose content the template leaves out, -1 where none is. */
  firstLeftOut(): number {
    const { messages, tools } = this.#conversation;
    const isAsked = ({ role, content }: Message): boolean =>
      role !== "assistant" && (content ?? "").trim() !== "";
    const sign = (k: number): string => `${this.#mark}${k}${this.#mark}`;
    const signed = messages.map((message, k) =>
      isAsked(message) ? { ...message, content: sign(k) } : message,
    );
    const rendered = this.#template.render(signed, tools, false);
    return messages.findIndex((message, k) => isAsked(message) && !rendered.includes(sign(k)));
  }

  /** The length of the first `count` messages' rendering where the text begins with it. */
  #prefixLength(count: number, generationPrompt: boolean): number | null {
    const { messages, tools } = this.#conversation;
    try {
      const prefix = this.#template.render(messages.slice(0, count), tools, generationPrompt);
      return this.text.startsWith(prefix) ? prefix.length : null;
    } catch (error) {
      // a template may refuse a beginning, such as no messages at all, and accept the whole
      if (error instanceof RowProblem) return null;
      throw error;
    }
  }

  #withContent(k: number, content: string): string {
    const { messages, tools } = this.#conversation;
    const changed = messages.map((message, i) => (i === k ? { role: message.role, content } : message));
    return this.#template.render(changed, tools, false);
  }

  /** Where what message `k` says is rendered: what changes in the rendering when it says something else. */
  #contentSpan(k: number): [number, number] {
    const { text } = this;
    const changed = this.#withContent(k, this.#mark.repeat(3));
    const shorter = Math.min(text.length, changed.length);
    let begin = 0;
    while (begin < shorter && text[begin] === changed[begin]) begin++;
    let tail = 0;
    while (tail < shorter - begin && text.at(-1 - tail) === changed.at(-1 - tail)) tail++;
    return [begin, text.length - tail];
  }

  /**
   * Where an answer ends, and where its end-of-turn token does. That token is the turn's last special one where only white
   * space follows it (ChatML's line feed belongs to nobody). Where `end` is the content's alone, the special token that
   * comes next belongs to the turn.
   */
  #endOfTurn(begin: number, end: number, isWholeTurn: boolean): { end: number; stop: number } {
    const { text } = this;
    this.#special ??= this.#tokenizer.sections(text, true).filter((section) => section.id !== null);
    const special = this.#special;
    const close = isWholeTurn
      ? special.findLast((section) => section.begin >= begin && section.begin < end)
      : special.find((section) => section.begin >= end);
    if (close === undefined) return { end, stop: end };
    const stop = close.begin + close.text.length;
    const between = isWholeTurn ? text.slice(stop, end) : text.slice(end, close.begin);
    if (between.trim() !== "") return { end, stop: end };
    return { end: Math.min(end, close.begin), stop };
  }
}
