// A conversation to ids and labels. Every assistant turn is a target, from where the template has said whose turn it is
// to its end-of-turn token. The edges come from rendering the conversation's beginnings, not from searching for text.

import type { Section } from "./added-tokens.ts";
import { type Message, RowProblem } from "./formats.ts";
import { IGNORE } from "./sample.ts";
import { type AnswerSpan, firstAnswerToken, targetLabels } from "./targets.ts";
import type { ChatTemplate } from "./templates.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface EncodedConversation {
  ids: Int32Array;
  labels: Int32Array; // IGNORE outside assistant turns
  firstAnswer: number; // the first token of an answer, not of its end; Infinity where there is none
  text: string; // as the template renders it
}

/** A conversation as a training sample. Throws RowProblem where the template refuses it. */
export function encodeConversation(
  messages: readonly Message[],
  template: ChatTemplate,
  tokenizer: Tokenizer,
  parseSpecial: boolean,
): EncodedConversation {
  const disguise = new Disguise(messages, template.source, tokenizer, parseSpecial);
  const turns = disguise.messages;
  const rendered = template.render(turns, false);
  const answers: AnswerSpan[] = [];
  turns.forEach((message, k) => {
    if (message.role === "assistant") {
      answers.push(turnSpan(turns, k, rendered, template, tokenizer, disguise.mark));
    }
  });

  const { text, sections } = revealed(rendered, disguise, tokenizer);
  const encoding = tokenizer.encodeSections(sections);
  const at = (place: number): number => disguise.reveal(rendered.slice(0, place)).length;
  const spans = answers.map(({ begin, end, stop }) => ({ begin: at(begin), end: at(end), stop: at(stop) }));
  const labels = targetLabels(encoding, spans);
  const firstAnswer = firstAnswerToken(encoding, spans);
  return withBos({ ids: encoding.ids, labels, text, firstAnswer }, sections, tokenizer);
}

/** The conversation's prompt: without a last assistant message, and with the header of the answer that comes. */
export function encodeConversationPrompt(
  messages: readonly Message[],
  template: ChatTemplate,
  tokenizer: Tokenizer,
  parseSpecial: boolean,
): { ids: Int32Array; text: string } {
  const asked = messages.at(-1)?.role === "assistant" ? messages.slice(0, -1) : messages;
  if (asked.length === 0) throw new RowProblem("the conversation has nothing before the assistant's turn");
  const disguise = new Disguise(asked, template.source, tokenizer, parseSpecial);
  const rendered = template.render(disguise.messages, true);
  const { text, sections } = revealed(rendered, disguise, tokenizer);
  const { ids } = tokenizer.encodeSections(sections);
  const labels = new Int32Array(ids.length).fill(IGNORE);
  return withBos({ ids, labels, text, firstAnswer: Number.POSITIVE_INFINITY }, sections, tokenizer);
}

/** Puts BOS before what a template renders without one, where the tokenizer begins texts with it. */
function withBos(
  encoded: EncodedConversation,
  sections: readonly Section[],
  tokenizer: Tokenizer,
): EncodedConversation {
  const bos = tokenizer.bosId;
  if (!tokenizer.addsBos || bos === null || sections[0]?.id === bos) return encoded;
  const ids = new Int32Array(encoded.ids.length + 1);
  const labels = new Int32Array(ids.length);
  ids[0] = bos;
  labels[0] = IGNORE;
  ids.set(encoded.ids, 1);
  labels.set(encoded.labels, 1);
  return { ids, labels, text: encoded.text, firstAnswer: encoded.firstAnswer + 1 };
}

/**
 * Special text inside messages, made unlike a special token while the template runs: a mark (a private-use character
 * that occurs nowhere else) goes behind its first character. What still looks special afterwards, the template wrote.
 */
class Disguise {
  readonly messages: readonly Message[];
  readonly mark: string;

  constructor(messages: readonly Message[], source: string, tokenizer: Tokenizer, parseSpecial: boolean) {
    const used = `${source}${messages.map((message) => message.content).join("")}`;
    let code = 0xe000;
    while (code < 0xf8ff && used.includes(String.fromCharCode(code))) code++;
    const mark = String.fromCharCode(code);
    this.mark = mark;
    const hide = (text: string): string => {
      let hidden = text;
      // twice: what is left of a broken token may hold a shorter one
      for (let pass = 0; pass < 2 && tokenizer.hasSpecial(hidden); pass++) {
        hidden = tokenizer.replaceSpecial(hidden, (token) => token[0] + mark + token.slice(1));
      }
      return hidden;
    };
    this.messages = parseSpecial
      ? messages
      : messages.map(({ role, content }) => ({ role, content: hide(content) }));
  }

  reveal(text: string): string {
    return text.replaceAll(this.mark, "");
  }
}

/** A rendering's text without marks, and its sections: what still looks special in the rendering is. */
function revealed(
  rendered: string,
  disguise: Disguise,
  tokenizer: Tokenizer,
): { text: string; sections: Section[] } {
  const sections: Section[] = [];
  let begin = 0;
  for (const section of tokenizer.sections(rendered, true)) {
    const text = disguise.reveal(section.text);
    sections.push({ text, begin, id: section.id });
    begin += text.length;
  }
  return { text: disguise.reveal(rendered), sections };
}

/** Where in `rendered` the answer of message `k` and its end-of-turn token stand. */
function turnSpan(
  messages: readonly Message[],
  k: number,
  rendered: string,
  template: ChatTemplate,
  tokenizer: Tokenizer,
  mark: string,
): AnswerSpan {
  const prefixLength = (count: number, generationPrompt: boolean): number | null => {
    try {
      const prefix = template.render(messages.slice(0, count), generationPrompt);
      return rendered.startsWith(prefix) ? prefix.length : null;
    } catch (error) {
      // a template may refuse a beginning, such as no messages at all, and accept the whole
      if (error instanceof RowProblem) return null;
      throw error;
    }
  };
  let begin = prefixLength(k, true);
  let end = prefixLength(k + 1, false);
  const byPrefix = end;
  if (begin === null || end === null || begin > end) {
    const content = contentSpan(messages, k, rendered, template, mark);
    // a token may begin with the space before its word: that is the answer's first token
    while (rendered[content[0] - 1] === " ") content[0]--;
    begin = begin !== null && begin <= content[0] ? begin : content[0];
    end = end !== null && end >= content[1] ? end : content[1];
  }
  return { begin, ...endOfTurn(rendered, begin, end, byPrefix === end, tokenizer) };
}

/** Where the content of message `k` is rendered: what changes in the rendering when it is another. */
function contentSpan(
  messages: readonly Message[],
  k: number,
  rendered: string,
  template: ChatTemplate,
  mark: string,
): [number, number] {
  const content = mark.repeat(3);
  const changed = template.render(
    messages.map((message, i) => (i === k ? { role: message.role, content } : message)),
    false,
  );
  const shorter = Math.min(rendered.length, changed.length);
  let begin = 0;
  while (begin < shorter && rendered[begin] === changed[begin]) begin++;
  let tail = 0;
  while (tail < shorter - begin && rendered.at(-1 - tail) === changed.at(-1 - tail)) tail++;
  return [begin, rendered.length - tail];
}

/**
 * Where an answer ends, and where its end-of-turn token does. That token is the turn's last special one where only white
 * space follows it (ChatML's line feed belongs to nobody). Where `end` is the content's alone, the special token that
 * comes next belongs to the turn.
 */
function endOfTurn(
  rendered: string,
  begin: number,
  end: number,
  wholeTurn: boolean,
  tokenizer: Tokenizer,
): { end: number; stop: number } {
  const special = tokenizer.sections(rendered, true).filter((section) => section.id !== null);
  const close = wholeTurn
    ? special.findLast((section) => section.begin >= begin && section.begin < end)
    : special.find((section) => section.begin >= end);
  if (close === undefined) return { end, stop: end };
  const stop = close.begin + close.text.length;
  const between = wholeTurn ? rendered.slice(stop, end) : rendered.slice(end, close.begin);
  if (between.trim() !== "") return { end, stop: end };
  return { end: Math.min(end, close.begin), stop };
}
