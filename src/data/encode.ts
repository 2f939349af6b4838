// A row to a training sample, or to a prompt for generation.

import { NeftuneError } from "../errors.ts";
import { alpacaExchanges } from "./alpaca.ts";
import { ChatTemplate } from "./chat-template.ts";
import { type ColumnNames, renamed } from "./columns.ts";
import { conversationPrompt, conversationScript, endOfTurnId } from "./conversation.ts";
import type { Conversation } from "./disguise.ts";
import type { RowNotes } from "./encoding-notes.ts";
import { type Exchange, exchangeScript } from "./exchange.ts";
import { type Message, parseRow, type Row, RowProblem, unusedColumns } from "./formats.ts";
import { namedTemplates } from "./named-templates.ts";
import { IGNORE, type Sample } from "./sample.ts";
import { type Encoded, encodeScript, type LossOn, type Script } from "./script.ts";
import { type TemplateDate, today } from "./template-date.ts";
import type { PromptTemplate } from "./templates.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface EncoderOptions {
  template: PromptTemplate;
  /** Tokens a sample is cut to; null for none. */
  maxLength: number | null;
  /** Special tokens' text inside data is special. */
  parseSpecial: boolean;
  /** Ids in rows of tokens lie below it; null takes the tokenizer's. A model may have more rows than its tokenizer. */
  vocabSize: number | null;
  /** Which tokens of a training sample are targets; absent, those of answers. */
  lossOn?: LossOn | undefined;
  /** Other names of fields in the data; absent, none. */
  columns?: ColumnNames | undefined;
  /** The day that templates are told; absent, today. */
  date?: TemplateDate | undefined;
}

/** What a model is given to go on from. */
export interface Prompt {
  ids: Int32Array;
  text: string;
  /** The template's name, as rows' notes have it. */
  template: string | null;
  /** The template asked for the date. */
  isDated: boolean;
}

export interface EncodedSample extends Sample {
  text: string;
  /** EOS or ends of turns are learned, and no answer. */
  endOnly: boolean;
  notes: RowNotes;
}

/** What prompts and completions that no template rendered are noted with. */
export const NO_TEMPLATE = "none";

/** Turns rows, as parsed from JSON, into tokens. Its methods throw RowProblem with what is wrong with a row. */
export class Encoder {
  private readonly options: EncoderOptions;
  private readonly load: () => Tokenizer;
  private loaded: Tokenizer | undefined;
  private chatTemplate: ChatTemplate | undefined;

  /**
   * A tokenizer given as a function is loaded with the first row that needs one; rows of tokens do not. Throws where the
   * template asks for a chat template and the tokenizer has none.
   */
  constructor(tokenizer: Tokenizer | (() => Tokenizer), options: EncoderOptions) {
    const { maxLength } = options;
    if (maxLength !== null && (!Number.isInteger(maxLength) || maxLength < 1)) {
      throw new NeftuneError("max-length", `max length: expected an integer of at least 1, got ${maxLength}`);
    }
    this.options = options;
    this.load = typeof tokenizer === "function" ? tokenizer : () => tokenizer;
    if (typeof tokenizer === "function") return;
    this.loaded = tokenizer;
    if (options.template.kind === "chat") this.chatTemplate = this.makeChatTemplate();
  }

  /** A training sample, cut to the maximum length. */
  encode(value: unknown): EncodedSample {
    const { columns, vocabSize, maxLength } = this.options;
    const fields = columns === undefined ? value : renamed(value, columns);
    const row = parseRow(fields, {
      vocabSize: vocabSize ?? this.loaded?.vocabSize ?? Number.POSITIVE_INFINITY,
    });
    const whole = this.encodeWhole(row);
    if (whole.ids.length === 0) throw new RowProblem("the row has no tokens");
    const most = maxLength ?? whole.ids.length;
    const labels = whole.labels.slice(0, most);
    const endOnly = whole.firstAnswer >= labels.length && labels.some((label) => label !== IGNORE);
    const remarks = [...whole.remarks];
    if (endOnly && !remarks.includes("empty-answer")) remarks.push("end-alone");
    const unused = [...unusedColumns(fields), ...this.unreadFields(row)];
    return {
      ids: whole.ids.slice(0, most),
      labels,
      truncated: whole.ids.length > most,
      text: whole.text,
      endOnly,
      notes: { remarks, unused, template: this.templateOf(row) },
    };
  }

  /** The row's prompt, uncut: without output, completion or last assistant turn. Rows of tokens are prompts as they are. */
  encodePrompt(value: unknown): Prompt {
    const { columns, vocabSize, parseSpecial } = this.options;
    const row = parseRow(columns === undefined ? value : renamed(value, columns), {
      vocabSize: vocabSize ?? this.loaded?.vocabSize ?? Number.POSITIVE_INFINITY,
      forGeneration: true,
    });
    if (row.format === "tokens") {
      return { ids: row.inputIds, text: this.textOf(row.inputIds), template: null, isDated: false };
    }
    const exchanges = this.exchangesOf(row, true);
    const script =
      exchanges !== null
        ? this.exchangeScript(exchanges)
        : conversationPrompt(asConversation(row, true), this.chat, this.tokenizer, parseSpecial);
    const { ids, text } = encodeScript(script, this.tokenizer, "answers");
    return { ids, text, template: this.templateOf(row), isDated: script.remarks.includes("dated") };
  }

  /** The id that ends the answers of the chat template that rendered rows so far; null where it has or there is none. */
  endOfTurnId(): number | null {
    return this.chatTemplate === undefined ? null : endOfTurnId(this.chatTemplate, this.tokenizer);
  }

  private encodeWhole(row: Row): Encoded {
    if (row.format === "tokens") {
      const { inputIds: ids, labels } = row;
      return { ids, labels, text: this.textOf(ids), firstAnswer: 0, remarks: [] };
    }
    const { parseSpecial, lossOn = "answers" } = this.options;
    if (row.format === "text") {
      const script = this.exchangeScript([{ prompt: row.text, answer: "" }]);
      return encodeScript({ ...script, answers: [] }, this.tokenizer, "all");
    }
    const exchanges = this.exchangesOf(row, false);
    if (exchanges !== null) return encodeScript(this.exchangeScript(exchanges), this.tokenizer, lossOn);
    const script = conversationScript(asConversation(row, false), this.chat, this.tokenizer, {
      parseSpecial,
      lossOn,
    });
    return encodeScript(script, this.tokenizer, lossOn);
  }

  private exchangeScript(exchanges: readonly Exchange[]): Script {
    const { parseSpecial, lossOn = "answers" } = this.options;
    return exchangeScript(exchanges, this.tokenizer, { parseSpecial, lossOn });
  }

  /** A row as prompts and answers where no chat template renders it, else null. */
  private exchangesOf(row: Exclude<Row, { format: "tokens" }>, isPrompt: boolean): Exchange[] | null {
    if (row.format === "text") return [{ prompt: row.text, answer: null }];
    switch (this.templateOf(row)) {
      case "alpaca": {
        expectNoPlace(row, "the alpaca template");
        const { history, instruction, input, output } = asAlpaca(row);
        return alpacaExchanges(history, instruction, input, isPrompt ? null : (output ?? ""));
      }
      case NO_TEMPLATE: {
        if (row.format !== "prompt-completion") return null;
        expectNoPlace(row, "a prompt without a template");
        return [{ prompt: row.prompt, answer: isPrompt ? null : (row.completion ?? "") }];
      }
      default:
        return null;
    }
  }

  /** The name of the template that renders a row; null where the row is not a question. */
  private templateOf(row: Row): string | null {
    const { template } = this.options;
    if (row.format === "tokens" || row.format === "text") return null;
    if (template.kind === "file") return template.path;
    if (template.kind !== "auto") return template.kind;
    if (row.format === "alpaca") return "alpaca";
    if (row.format === "prompt-completion") return NO_TEMPLATE;
    return this.tokenizer.chatTemplate === null ? "vicuna" : "chat";
  }

  /** Fields of messages that the chat template does not read. */
  private unreadFields(row: Row): string[] {
    if (row.format !== "messages" || row.messages.every(({ extra }) => extra === undefined)) return [];
    const names = new Set(row.messages.flatMap(({ extra }) => Object.keys(extra ?? {})));
    return [...names].filter((name) => !this.chat.reads(name)).map((name) => `${name} of messages`);
  }

  private textOf(ids: Int32Array): string {
    return this.loaded?.decode(ids) ?? "";
  }

  private get tokenizer(): Tokenizer {
    this.loaded ??= this.load();
    return this.loaded;
  }

  private get chat(): ChatTemplate {
    this.chatTemplate ??= this.makeChatTemplate();
    return this.chatTemplate;
  }

  private makeChatTemplate(): ChatTemplate {
    const { template } = this.options;
    const { bosToken, eosToken, chatTemplate, chatTemplateFile } = this.tokenizer;
    const settings = { bosToken, eosToken, date: this.options.date ?? today() };
    const { kind } = template;
    if (kind === "file") return new ChatTemplate(template.source, template.path, settings);
    if (kind !== "auto" && kind !== "alpaca" && kind !== "chat") {
      return new ChatTemplate(namedTemplates[kind], kind, settings);
    }
    if (chatTemplate !== null) return new ChatTemplate(chatTemplate, chatTemplateFile, settings);
    if (kind !== "chat") return new ChatTemplate(namedTemplates.vicuna, "vicuna", settings);
    const names = Object.keys(namedTemplates).join(", ");
    throw new NeftuneError(
      "template",
      `prompt template chat: the tokenizer has no chat template; use ${names} or a Jinja file`,
    );
  }
}

/** Refuses what only a chat template can take. */
function expectNoPlace(row: Row, where: string): void {
  const field =
    "system" in row && row.system !== null
      ? "a system turn"
      : "tools" in row && row.tools !== null
        ? "tools"
        : null;
  if (field === null) return;
  const names = Object.keys(namedTemplates).join(", ");
  throw new RowProblem(
    `${where} has no place for ${field}; choose one that has with --prompt-template (chat, ${names} or a Jinja file)`,
  );
}

/** A row as the Alpaca template takes it: one question, one answer, and those before. */
function asAlpaca(
  row: Row,
): Pick<Extract<Row, { format: "alpaca" }>, "instruction" | "input" | "output" | "history"> {
  if (row.format === "alpaca") return row;
  if (row.format === "prompt-completion") {
    return { instruction: row.prompt, input: "", output: row.completion, history: [] };
  }
  const messages = row.format === "messages" ? row.messages : [];
  const [user, assistant] = messages;
  const isPair =
    user?.role === "user" && messages.length <= 2 && (assistant?.role ?? "assistant") === "assistant";
  if (!isPair) {
    const got = messages.map((message) => message.role).join(", ");
    throw new RowProblem(`the alpaca template takes one user and one assistant message, got ${got}`);
  }
  if (assistant?.untrained === true) {
    throw new RowProblem("the alpaca template takes no answer of weight 0");
  }
  const field = Object.keys(assistant?.extra ?? {}).find((name) =>
    /^(tool_calls|reasoning_content)$/.test(name),
  );
  if (field !== undefined) throw new RowProblem(`the alpaca template has no place for ${field}`);
  return { instruction: user.content ?? "", input: "", output: assistant?.content ?? null, history: [] };
}

/** A row as a chat template takes it; as a prompt, without the answer that it asks for. */
function asConversation(row: Row, isPrompt: boolean): Conversation {
  if (row.format === "messages") {
    const { messages, asking, tools } = row;
    return { messages: isPrompt ? messages.slice(0, asking) : messages, tools };
  }
  if (row.format !== "alpaca" && row.format !== "prompt-completion") return { messages: [], tools: null };
  const { system, tools } = row;
  const [question, answer, history] =
    row.format === "alpaca"
      ? [row.input === "" ? row.instruction : `${row.instruction}\n\n${row.input}`, row.output, row.history]
      : [row.prompt, row.completion, []];
  const messages: Message[] = [
    ...(system === null ? [] : [{ role: "system", content: system } as const]),
    ...history.flatMap(([asked, answered]) => [
      { role: "user", content: asked } as const,
      { role: "assistant", content: answered } as const,
    ]),
    { role: "user", content: question },
    ...(answer === null || isPrompt ? [] : [{ role: "assistant", content: answer } as const]),
  ];
  return { messages, tools };
}
