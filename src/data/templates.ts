// Prompt templates: Stanford's Alpaca text, and Jinja templates for conversations.

import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";
import { FormatError, UsageError } from "../errors.ts";
import { type Message, RowProblem } from "./formats.ts";
import { strftime, type TemplateDate, today } from "./template-date.ts";

/** What decides how rows become text: by each row's format (`auto`), or one template for all. Plain data, for workers. */
export type PromptTemplate =
  | { kind: "auto" }
  | { kind: "alpaca" }
  | { kind: "chat" }
  | { kind: "vicuna" }
  | { kind: "llama2" }
  | { kind: "file"; path: string; source: string };

/** What `--prompt-template` takes beside the path of a Jinja file. */
const NAMED = ["alpaca", "chat", "vicuna", "llama2"] as const;

/** From `--prompt-template`: a name or the path of a Jinja file; absent, by the rows' format. */
export function promptTemplate(option: string | undefined): PromptTemplate {
  if (option === undefined || option === "auto") return { kind: "auto" };
  const named = NAMED.find((name) => name === option);
  if (named !== undefined) return { kind: named };
  let source: string;
  try {
    source = readFileSync(option, "utf8");
  } catch (error) {
    throw new UsageError(
      `prompt template ${option}: expected ${NAMED.join(", ")} or a Jinja file that can be read: ${(error as Error).message}`,
      { cause: error },
    );
  }
  new ChatTemplate(source, option, "", "", today());
  return { kind: "file", path: option, source };
}

const TASK = "Below is an instruction that describes a task";
const WRITE = "Write a response that appropriately completes the request.";

/** Stanford Alpaca's prompt, up to and including `### Response:`; the output follows directly. */
export function alpacaPrompt(instruction: string, input: string): string {
  if (input === "") return `${TASK}. ${WRITE}\n\n### Instruction:\n${instruction}\n\n### Response:`;
  const context = `${TASK}, paired with an input that provides further context. ${WRITE}`;
  return `${context}\n\n### Instruction:\n${instruction}\n\n### Input:\n${input}\n\n### Response:`;
}

/** Vicuna v1.1's conversation (FastChat): what NEFTune's authors trained ShareGPT with. */
export const VICUNA_TEMPLATE = [
  '{%- set default_system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user\'s questions." -%}',
  "{{- bos_token -}}",
  "{%- if messages and messages[0]['role'] == 'system' -%}{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}",
  "{%- else -%}{%- set system = default_system -%}{%- set turns = messages -%}{%- endif -%}",
  "{{- system + ' ' -}}",
  "{%- for turn in turns -%}",
  "{%- if turn['role'] == 'user' -%}{{- 'USER: ' + turn['content'] + ' ' -}}",
  "{%- elif turn['role'] == 'assistant' -%}{{- 'ASSISTANT: ' + turn['content'] + eos_token -}}",
  "{%- else -%}{{- raise_exception('a system message has to come first') -}}{%- endif -%}",
  "{%- endfor -%}",
  "{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}",
].join("");

/**
 * Llama 2 Chat's conversation (arXiv 2307.09288, and the format of its reference code): each question in [INST], with
 * the system's words inside the first, each exchange from BOS to EOS. Refuses what the model was not trained on.
 */
export const LLAMA2_TEMPLATE = [
  "{%- if messages[0]['role'] == 'system' -%}{%- set turns = messages[1:] -%}",
  "{%- set preface = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' -%}",
  "{%- else -%}{%- set turns = messages -%}{%- set preface = '' -%}{%- endif -%}",
  "{%- for turn in turns -%}",
  "{%- if turn['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}",
  "{{- raise_exception('after the system message, user and assistant have to take turns, the user first') -}}",
  "{%- endif -%}",
  "{%- if turn['role'] == 'assistant' -%}{{- ' ' + turn['content'].strip() + ' ' + eos_token -}}",
  "{%- else -%}{%- set question = (preface if loop.first else '') + turn['content'] -%}",
  "{{- bos_token + '[INST] ' + question.strip() + ' [/INST]' -}}{%- endif -%}",
  "{%- endfor -%}",
].join("");

/** The Jinja library has a strftime_now of its own, always the clock's; a template can only be given another name. */
const PINNED = "neftune_strftime";
/** The line end goes with the block (trim_blocks), so the template behind still begins at the start of a line. */
const PIN_DATE = `{% set strftime_now = ${PINNED} %}\n`;

/** A conversation as text. Jinja as Transformers runs it: trim_blocks, lstrip_blocks, raise_exception, strftime_now. */
export class ChatTemplate {
  readonly source: string;
  private readonly template: Template;
  private readonly bosToken: string;
  private readonly eosToken: string;
  private readonly date: TemplateDate;

  /** `name` says in errors where the source is from; `date` is what strftime_now gives. */
  constructor(source: string, name: string, bosToken: string, eosToken: string, date: TemplateDate) {
    this.source = source;
    this.date = date;
    this.bosToken = bosToken;
    this.eosToken = eosToken;
    try {
      this.template = new Template(source.includes("strftime_now") ? `${PIN_DATE}${source}` : source);
    } catch (error) {
      throw new FormatError(name, `not a Jinja template: ${(error as Error).message}`, { cause: error });
    }
  }

  /** Throws RowProblem where the template refuses the messages or fails on them. */
  render(messages: readonly Message[], addGenerationPrompt: boolean): string {
    try {
      const rendered: unknown = this.template.render({
        messages: messages.map(({ role, content }) => ({ role, content })),
        bos_token: this.bosToken,
        eos_token: this.eosToken,
        add_generation_prompt: addGenerationPrompt,
        tools: null,
        documents: null,
        [PINNED]: (format: unknown) => strftime(this.date, String(format)),
      });
      if (typeof rendered === "string") return rendered;
      throw new Error("it gives no text");
    } catch (error) {
      throw new RowProblem(`the chat template refuses this conversation: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }
}
