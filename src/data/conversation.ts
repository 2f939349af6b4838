// A conversation to a script: rendered by a chat template, its answers marked. Every assistant turn is one, from where
// the template has said whose turn it is to its end-of-turn token.

import type { ChatTemplate } from "./chat-template.ts";
import { type Conversation, Disguise } from "./disguise.ts";
import type { Remark } from "./encoding-notes.ts";
import { has, isObject, RowProblem } from "./fields.ts";
import type { Message } from "./messages.ts";
import type { Answer, LossOn, Script } from "./script.ts";
import type { AnswerSpan } from "./targets.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { Rendering, type TurnSpan } from "./turns.ts";

/** Fields of messages that a template has to read, since they are part of what an answer is. */
const ANSWER_FIELDS = ["tool_calls", "reasoning_content"] as const;

/** A conversation as a training sample. Throws RowProblem where the template refuses it or has no place for part of it. */
export function conversationScript(
  conversation: Conversation,
  template: ChatTemplate,
  tokenizer: Tokenizer,
  { parseSpecial, lossOn }: { parseSpecial: boolean; lossOn: LossOn },
): Script {
  template.beginRow();
  expectPlace(conversation, template);
  const disguise = new Disguise(conversation, template.source, tokenizer, parseSpecial);
  const { messages } = disguise.conversation;
  const rendering = new Rendering(disguise.conversation, template, tokenizer, disguise.mark);
  expectShown(rendering, conversation.messages, template);

  const remarks = new Set<Remark>();
  const at = (place: number): number => disguise.reveal(rendering.text.slice(0, place)).length;
  const revealed = ({ begin, end, stop }: AnswerSpan): AnswerSpan => {
    return { begin: at(begin), end: at(end), stop: at(stop) };
  };
  const answers = learnedTurns(messages, lossOn).map((k): Answer => {
    const span = rendering.turn(k);
    if (!span.isPrompted) remarks.add("other-prompt");
    if (!holdsAnswer(rendering.text, span, messages[k]!)) remarks.add("changed-answer");
    return { ...revealed(span), isEmpty: isEmptyAnswer(messages[k]!) };
  });
  const excepted = messages.flatMap(({ untrained }, k) =>
    lossOn === "all" && untrained === true ? [revealed(rendering.turn(k))] : [],
  );
  if (template.isDated) remarks.add("dated");
  const { text, sections } = disguise.revealed(rendering.text, tokenizer);
  return { text, sections, answers, excepted, hasEos: false, remarks: [...remarks] };
}

/** The conversation as a prompt: with the header of the answer that comes. */
export function conversationPrompt(
  conversation: Conversation,
  template: ChatTemplate,
  tokenizer: Tokenizer,
  parseSpecial: boolean,
): Script {
  if (conversation.messages.length === 0) {
    throw new RowProblem("the conversation has nothing before the assistant's turn");
  }
  template.beginRow();
  expectPlace(conversation, template);
  const disguise = new Disguise(conversation, template.source, tokenizer, parseSpecial);
  const rendering = new Rendering(disguise.conversation, template, tokenizer, disguise.mark, true);
  expectShown(rendering, conversation.messages, template);
  const { text, sections } = disguise.revealed(rendering.text, tokenizer);
  const remarks: Remark[] = template.isDated ? ["dated"] : [];
  return { text, sections, answers: [], excepted: [], hasEos: false, remarks };
}

/** The messages that are targets. */
function learnedTurns(messages: readonly Message[], lossOn: LossOn): number[] {
  const turns = messages.flatMap(({ role }, k) => (role === "assistant" ? [k] : []));
  return (lossOn === "last-answer" ? turns.slice(-1) : turns).filter((k) => messages[k]!.untrained !== true);
}

/** Refuses tools, tool calls and reasoning where the template reads no such thing. */
function expectPlace({ messages, tools }: Conversation, template: ChatTemplate): void {
  if (tools !== null && !template.mentions("tools")) {
    throw new RowProblem(`field "tools": the chat template (${template.name}) has no place for tools`);
  }
  messages.forEach(({ extra }, k) => {
    const field = ANSWER_FIELDS.find((name) => has(extra ?? {}, name) && !template.reads(name));
    if (field === undefined) return;
    throw new RowProblem(`turn ${k + 1}: the chat template (${template.name}) has no place for ${field}`);
  });
}

/** Refuses an empty text, and turns other than answers that the template leaves out. */
function expectShown(rendering: Rendering, messages: readonly Message[], template: ChatTemplate): void {
  if (rendering.text.trim() === "") {
    throw new RowProblem("the prompt template makes an empty text of this row");
  }
  const k = rendering.firstLeftOut();
  if (k < 0) return;
  throw new RowProblem(
    `turn ${k + 1}: the chat template (${template.name}) leaves out this ${messages[k]!.role} turn; it has no place for one`,
  );
}

function isEmptyAnswer({ content, extra }: Message): boolean {
  return (content ?? "").trim() === "" && !ANSWER_FIELDS.some((name) => has(extra ?? {}, name));
}

/**
 * True where a turn has what the message says: its content, its reasoning, the functions that it calls. Their beginning
 * may stand in the generation prompt (`<think>`).
 */
function holdsAnswer(text: string, { begin, stop }: TurnSpan, { content, extra }: Message): boolean {
  const upTo = text.slice(0, stop);
  const isIn = (part: string): boolean => {
    const found = upTo.lastIndexOf(part);
    return found >= 0 && found + part.length >= begin;
  };
  const { reasoning_content: reasoning, tool_calls: calls } = extra ?? {};
  const names = (Array.isArray(calls) ? calls : []).map((call: unknown) => {
    const called = isObject(call) && isObject(call.function) ? call.function : call;
    return isObject(called) ? called.name : null;
  });
  return [content, reasoning, ...names].every((part) => typeof part !== "string" || isIn(part.trim()));
}

/** The id that ends the template's answers, or null where that is not a single token. */
export function endOfTurnId(template: ChatTemplate, tokenizer: Tokenizer): number | null {
  const messages: Message[] = [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
  ];
  template.beginRow();
  try {
    const rendering = new Rendering({ messages, tools: null }, template, tokenizer, "\ue000");
    const { end, stop } = rendering.turn(1);
    const last = tokenizer.sections(rendering.text.slice(end, stop), true).at(-1);
    return last?.id ?? null;
  } catch (error) {
    if (error instanceof RowProblem) return null;
    throw error;
  }
}
