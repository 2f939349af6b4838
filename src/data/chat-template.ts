// A conversation as text, by a Jinja template as Transformers renders it.

import { RowProblem } from "./fields.ts";
import { JinjaTemplate, TemplateLimit, threadTime } from "./jinja.ts";
import type { Message } from "./messages.ts";
import { strftime, type TemplateDate } from "./template-date.ts";

/** What templates get of a tokenizer, and the day that strftime_now gives. */
export interface TemplateSettings {
  bosToken: string;
  eosToken: string;
  date: TemplateDate;
}

/** How long one row may take to render, all its renderings together. */
const ROW_MILLISECONDS = 10_000;

export class ChatTemplate {
  /** What errors call it. */
  readonly name: string;
  readonly source: string;
  readonly #template: JinjaTemplate;
  readonly #settings: TemplateSettings;
  #deadline = Number.POSITIVE_INFINITY;
  #isDated = false;

  /** Throws FormatError where the source is not a template. */
  constructor(source: string, name: string, settings: TemplateSettings) {
    this.name = name;
    this.source = source;
    this.#settings = settings;
    this.#template = new JinjaTemplate(source, name);
  }

  /** Starts the clock of a row. */
  beginRow(): void {
    this.#deadline = threadTime() + ROW_MILLISECONDS;
    this.#isDated = false;
  }

  /** True where this row's renderings have called strftime_now. */
  get isDated(): boolean {
    return this.#isDated;
  }

  /** True where the source names a field or variable at all. */
  mentions(name: string): boolean {
    return new RegExp(`\\b${name}\\b`).test(this.source);
  }

  /** True where the source reads a field of messages, under one of its names. */
  reads(field: string): boolean {
    return this.mentions(field) || (field === "reasoning_content" && this.mentions("thinking"));
  }

  /** Throws RowProblem where the template refuses the messages, fails on them or goes past a limit. */
  render(
    messages: readonly Message[],
    tools: readonly unknown[] | null,
    addGenerationPrompt: boolean,
  ): string {
    const { bosToken, eosToken, date } = this.#settings;
    const variables = {
      messages: messages.map(({ role, extra, ...message }) => ({
        role,
        ...("content" in message ? { content: message.content } : {}),
        ...extra,
        // gpt-oss' template reads it by this name
        ...(extra?.reasoning_content === undefined ? {} : { thinking: extra.reasoning_content }),
      })),
      bos_token: bosToken,
      eos_token: eosToken,
      add_generation_prompt: addGenerationPrompt,
      tools,
      documents: null,
    };
    const functions = {
      strftime_now: (format: unknown) => {
        this.#isDated = true;
        return strftime(date, String(format));
      },
    };
    try {
      return this.#template.render(variables, functions, this.#deadline);
    } catch (error) {
      const { message } = error as Error;
      if (error instanceof TemplateLimit) {
        throw new RowProblem(`the chat template (${this.name}) ${message} on this row`, { cause: error });
      }
      throw new RowProblem(`the chat template refuses this conversation: ${message}`, { cause: error });
    }
  }
}
