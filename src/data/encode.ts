// A row to a training sample, or to a prompt for generation.

import { NeftuneError } from "../errors.ts";
import { encodeConversation, encodeConversationPrompt } from "./conversation.ts";
import { type ColumnNames, type Message, parseRow, type Row, RowProblem, renamed } from "./formats.ts";
import { IGNORE, type Sample } from "./sample.ts";
import { firstAnswerToken, targetLabels } from "./targets.ts";
import { type TemplateDate, today } from "./template-date.ts";
import {
  alpacaPrompt,
  ChatTemplate,
  LLAMA2_TEMPLATE,
  type PromptTemplate,
  VICUNA_TEMPLATE,
} from "./templates.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface EncoderOptions {
  template: PromptTemplate;
  /** Tokens a sample is cut to; null for none. */
  maxLength: number | null;
  /** Special tokens' text inside data is special. */
  parseSpecial: boolean;
  /** Ids in rows of tokens lie below it; null takes the tokenizer's. A model may have more rows than its tokenizer. */
  vocabSize: number | null;
  /** Other names of fields in the data; absent, none. */
  columns?: ColumnNames | undefined;
  /** The day that templates are told; absent, today. */
  date?: TemplateDate | undefined;
}

/** What a model is given to go on from. */
export interface Prompt {
  ids: Int32Array;
  text: string;
}

interface Encoded {
  ids: Int32Array;
  labels: Int32Array;
  text: string;
  firstAnswer: number; // the first token of an answer, not of its end; Infinity where there is none
}

/** Turns rows, as parsed from JSON, into tokens. Its methods throw RowProblem with what is wrong with a row. */
export class Encoder {
  private readonly tokenizer: Tokenizer;
  private readonly options: EncoderOptions;
  private readonly vocabSize: number;
  private readonly chat: ChatTemplate;

  /** Throws where the template asks for a chat template and the tokenizer has none. */
  constructor(tokenizer: Tokenizer, options: EncoderOptions) {
    const { template, maxLength } = options;
    if (maxLength !== null && (!Number.isInteger(maxLength) || maxLength < 1)) {
      throw new NeftuneError("max-length", `max length: expected an integer of at least 1, got ${maxLength}`);
    }
    if (template.kind === "chat" && tokenizer.chatTemplate === null) {
      throw new NeftuneError(
        "template",
        "prompt template chat: the tokenizer has no chat template; use vicuna, llama2 or a Jinja file",
      );
    }
    this.tokenizer = tokenizer;
    this.options = options;
    this.vocabSize = options.vocabSize ?? tokenizer.vocabSize;
    const { bosToken, eosToken, chatTemplate } = tokenizer;
    const date = options.date ?? today();
    const [source, name] =
      template.kind === "file"
        ? [template.source, template.path]
        : template.kind === "llama2"
          ? [LLAMA2_TEMPLATE, "llama2"]
          : template.kind === "vicuna" || chatTemplate === null
            ? [VICUNA_TEMPLATE, "vicuna"]
            : [chatTemplate, "the tokenizer"];
    this.chat = new ChatTemplate(source, name, bosToken, eosToken, date);
  }

  /** A training sample, cut to the maximum length. `endOnly`: EOS or ends of turns are learned, and no answer. */
  encode(value: unknown): Sample & { text: string; endOnly: boolean } {
    const row = this.parse(value, false);
    const whole = this.encodeWhole(row);
    if (whole.ids.length === 0) throw new RowProblem("the row has no tokens");
    const most = this.options.maxLength ?? whole.ids.length;
    const labels = whole.labels.slice(0, most);
    return {
      ids: whole.ids.slice(0, most),
      labels,
      truncated: whole.ids.length > most,
      text: whole.text,
      endOnly: whole.firstAnswer >= labels.length && labels.some((label) => label !== IGNORE),
    };
  }

  /** The row's prompt, uncut: without output, completion or last assistant turn. Rows of tokens are prompts as they are. */
  encodePrompt(value: unknown): Prompt {
    const row = this.parse(value, true);
    if (row.format === "tokens") return { ids: row.inputIds, text: this.tokenizer.decode(row.inputIds) };
    if (row.format === "text") return this.promptOf(row.text);
    const { template } = this.options;
    if (template.kind === "alpaca" || (template.kind === "auto" && row.format === "alpaca")) {
      const { instruction, input } = asAlpaca(row);
      return this.promptOf(alpacaPrompt(instruction, input));
    }
    if (template.kind === "auto" && row.format === "prompt-completion") return this.promptOf(row.prompt);
    const { parseSpecial } = this.options;
    const { ids, text } = encodeConversationPrompt(asMessages(row), this.chat, this.tokenizer, parseSpecial);
    if (text.trim() === "") throw new RowProblem("the prompt template makes an empty text of this row");
    return { ids, text };
  }

  private parse(value: unknown, forGeneration: boolean): Row {
    const { columns } = this.options;
    const row = columns === undefined ? value : renamed(value, columns);
    return parseRow(row, { vocabSize: this.vocabSize, forGeneration });
  }

  private encodeWhole(row: Row): Encoded {
    if (row.format === "tokens") {
      const { inputIds, labels } = row;
      const text = this.tokenizer.decode(inputIds);
      return { ids: inputIds, labels: labels ?? inputIds, text, firstAnswer: 0 };
    }
    if (row.format === "text") {
      const ids = this.withEos(this.withBos(row.text));
      return { ids, labels: ids, text: row.text, firstAnswer: 0 };
    }
    const { template } = this.options;
    if (template.kind === "alpaca" || (template.kind === "auto" && row.format === "alpaca")) {
      const { instruction, input, output } = asAlpaca(row);
      return this.encodePair(alpacaPrompt(instruction, input), output ?? "");
    }
    if (template.kind === "auto" && row.format === "prompt-completion") {
      return this.encodePair(row.prompt, row.completion ?? "");
    }
    const encoded = encodeConversation(asMessages(row), this.chat, this.tokenizer, this.options.parseSpecial);
    if (encoded.text.trim() === "")
      throw new RowProblem("the prompt template makes an empty text of this row");
    return encoded;
  }

  /** One text in one piece between BOS and EOS; the completion and EOS are learned. */
  private encodePair(prompt: string, completion: string): Encoded {
    const { bosId, eosId, addsBos } = this.tokenizer;
    const text = prompt + completion;
    const encoding = this.tokenizer.encodeText(text, this.options.parseSpecial);
    const answers = [{ begin: prompt.length, end: text.length, stop: text.length }];
    const bos = addsBos && encoding.ids[0] !== bosId ? 1 : 0;
    const length = bos + encoding.ids.length;
    const ids = new Int32Array(length + (eosId === null ? 0 : 1));
    const labels = new Int32Array(ids.length);
    ids.fill(bosId ?? 0, 0, bos).set(encoding.ids, bos);
    labels.fill(IGNORE, 0, bos).set(targetLabels(encoding, answers), bos);
    if (eosId !== null) ids[length] = labels[length] = eosId;
    return { ids, labels, text, firstAnswer: bos + firstAnswerToken(encoding, answers) };
  }

  private promptOf(text: string): Prompt {
    return { ids: this.withBos(text), text };
  }

  private withBos(text: string): Int32Array {
    const { tokenizer } = this;
    const ids = tokenizer.encode(text, { addBos: true, parseSpecial: this.options.parseSpecial });
    const twice = tokenizer.addsBos && ids[0] === tokenizer.bosId && ids[1] === tokenizer.bosId;
    return twice ? ids.subarray(1) : ids;
  }

  private withEos(ids: Int32Array): Int32Array {
    const { eosId } = this.tokenizer;
    if (eosId === null) return ids;
    const ended = new Int32Array(ids.length + 1);
    ended.set(ids);
    ended[ids.length] = eosId;
    return ended;
  }
}

/** A row as the Alpaca template takes it: one question, one answer. */
function asAlpaca(row: Row): { instruction: string; input: string; output: string | null } {
  if (row.format === "alpaca") return row;
  if (row.format === "prompt-completion") {
    return { instruction: row.prompt, input: "", output: row.completion };
  }
  const messages = row.format === "messages" ? row.messages : [];
  const [user, assistant] = messages;
  if (user?.role === "user" && messages.length <= 2 && (assistant?.role ?? "assistant") === "assistant") {
    return { instruction: user.content, input: "", output: assistant?.content ?? null };
  }
  const got = messages.map((message) => message.role).join(", ");
  throw new RowProblem(`the alpaca template takes one user and one assistant message, got ${got}`);
}

/** A row as a chat template takes it. */
function asMessages(row: Row): Message[] {
  if (row.format === "messages") return row.messages;
  const [question, answer] =
    row.format === "alpaca"
      ? [row.input === "" ? row.instruction : `${row.instruction}\n\n${row.input}`, row.output]
      : row.format === "prompt-completion"
        ? [row.prompt, row.completion]
        : ["", null];
  const messages: Message[] = [{ role: "user", content: question }];
  if (answer !== null) messages.push({ role: "assistant", content: answer });
  return messages;
}
