// A model that answers as long as a command runs: its weights, a session of sequences, its tokenizer and template.

import { Encoder } from "../../data/encode.ts";
import { RowProblem } from "../../data/formats.ts";
import { type TemplateDate, today } from "../../data/template-date.ts";
import { promptTemplate } from "../../data/templates.ts";
import { Tokenizer } from "../../data/tokenizer.ts";
import { UsageError } from "../../errors.ts";
import { GenerationSession, type Llama, loadForInference, readConfig } from "../../model/index.ts";
import type { Device } from "../../native/index.ts";
import { loadNotes, type QuantizationValues, quantizationOf } from "../arguments/quantization.ts";
import type { Context } from "../command.ts";
import type { CheckedModel } from "./checked-model.ts";
import { type ChosenTemplate, chooseDate, chooseTemplate } from "./prompt-template.ts";
import { datedNote } from "./row-notes.ts";

/** Tokens of prompts that are read at once: what is read in one pass is read fastest. */
const CHUNK_TOKENS = 2048;
/** What a conversation may have at most where nothing else is said: the cache's memory grows with it. */
const CONTEXT_TOKENS = 4096;

export const contextLengthOption = {
  type: "int",
  min: 2,
  value: "N",
  help: `most tokens of a prompt and its answer together; the cache's memory grows with it (default ${CONTEXT_TOKENS}, or the model's positions if they are fewer)`,
} as const;

export interface ServedModelOptions extends QuantizationValues {
  dtype: "f32" | "bf16";
  adapter: string | undefined;
  "prompt-template": string | undefined;
  "template-date"?: TemplateDate | undefined;
  "context-length": number | undefined;
  /** Sequences at once. */
  slots: number;
  /** What notes on its prompts begin with; absent: it is the only model. */
  name?: string;
  /** One on the same base, whose weights are used; it is to be closed later. */
  weightsOf?: ServedModel | undefined;
}

interface Message {
  role: "system" | "user" | "assistant" | "tool";
  content: string;
}

export class ServedModel {
  readonly model: Llama;
  readonly session: GenerationSession;
  readonly tokenizer: Tokenizer;
  readonly template: ChosenTemplate;
  /** Null: there is no template for conversations. */
  readonly encoder: Encoder | null;
  /** Ids that end an answer. */
  readonly eosIds: readonly number[];
  /** Says that the template wrote the date, the first time; null: that is said. */
  #noteDate: (() => void) | null;

  private constructor(model: Llama, session: GenerationSession, talk: Talk, noteDate: () => void) {
    this.#noteDate = noteDate;
    this.model = model;
    this.session = session;
    this.tokenizer = talk.tokenizer;
    this.template = talk.template;
    this.encoder = talk.encoder;
    const endOfTurn = talk.encoder?.endOfTurnId() ?? null;
    const ids = [...talk.tokenizer.eosIds, ...model.config.eosTokenIds];
    this.eosIds = [...new Set(endOfTurn === null ? ids : [...ids, endOfTurn])];
  }

  static open(
    device: Device,
    { path: dir, preset }: Pick<CheckedModel, "path" | "preset">,
    options: ServedModelOptions,
    context: Pick<Context, "note">,
  ): ServedModel {
    const talk = talkOf(
      dir,
      chooseTemplate(options["prompt-template"], [options.adapter, dir], preset),
      options,
    );
    const noteDate = () =>
      context.note(
        `${options.name === undefined ? "" : `${options.name}: `}${datedNote("prompts", talk.unfixedDate)}`,
      );
    const request = {
      dir,
      adapter: options.adapter,
      dtype: options.dtype,
      quantization: quantizationOf(options),
      weightsOf: options.weightsOf?.model,
    };
    const positions = talk.config.maxPositionEmbeddings;
    const capacity = options["context-length"] ?? Math.min(CONTEXT_TOKENS, positions);
    if (capacity > positions)
      context.note(`note: --context-length ${capacity} is beyond the ${positions} positions of the model`);
    const limits = {
      maxTokens: Math.max(Math.min(CHUNK_TOKENS, capacity), options.slots),
      maxTargets: 1,
      maxPosition: capacity,
      sizedBy: "--context-length",
    };
    const model = loadForInference(device, request, limits, loadNotes(context));
    try {
      const session = new GenerationSession(model, { slots: options.slots, capacity });
      return new ServedModel(model, session, talk, noteDate);
    } catch (error) {
      model.close();
      throw error;
    }
  }

  close(): void {
    this.session.close();
    this.model.close();
  }

  /** The text of one token within a text: with the space that a token at the beginning of one would lose. */
  tokenText(id: number): string {
    const { bosId } = this.tokenizer;
    if (bosId === null) return this.tokenizer.decode([id]);
    return this.tokenizer.decode([bosId, id]).slice(this.tokenizer.decode([bosId]).length);
  }

  /** A conversation as the template renders it, up to where the answer begins. Throws RowProblem where it refuses it. */
  promptOf(messages: readonly Message[]): Int32Array {
    if (this.encoder === null) throw noTemplate();
    const row = this.template.option === "alpaca" ? alpacaRow(messages) : null;
    const { ids, isDated } = this.encoder.encodePrompt(row ?? { messages });
    if (isDated) {
      this.#noteDate?.();
      this.#noteDate = null;
    }
    return ids;
  }
}

/** A conversation in Alpaca's form, which has earlier questions and answers apart; null where it is not one. */
function alpacaRow(messages: readonly Message[]): object | null {
  if (messages.some((message) => message.role === "system"))
    throw new RowProblem("the alpaca template has no place for a system message");
  const role = (i: number) => (i % 2 === 0 ? "user" : "assistant");
  if (messages.length % 2 === 0 || messages.some((message, i) => message.role !== role(i))) return null;
  const texts = messages.map(({ content }) => content);
  const history = Array.from({ length: (texts.length - 1) / 2 }, (_, i) => texts.slice(2 * i, 2 * i + 2));
  return { instruction: texts.at(-1)!, input: "", output: "", ...(history.length === 0 ? {} : { history }) };
}

export const noTemplate = () =>
  new UsageError(
    "the model has no chat template; name one with --prompt-template (chatml, llama3, alpaca, …), as it was trained with",
  );

type Talk = ReturnType<typeof talkOf>;

function talkOf(
  dir: string,
  template: ChosenTemplate,
  { adapter, "template-date": option }: Pick<ServedModelOptions, "adapter" | "template-date">,
) {
  const tokenizer = Tokenizer.load(dir);
  const config = readConfig(dir);
  const hasTemplate = template.option !== undefined || tokenizer.chatTemplate !== null;
  const chosen =
    template.option === undefined && hasTemplate ? { option: "chat", why: "the tokenizer's own" } : template;
  const fixedDate = chooseDate(option, [adapter, dir]);
  const date = fixedDate ?? today();
  const options = {
    template: promptTemplate(chosen.option),
    maxLength: null,
    parseSpecial: false,
    vocabSize: config.vocabSize,
    date,
  };
  const encoder = hasTemplate ? new Encoder(tokenizer, options) : null;
  const unfixedDate = fixedDate === undefined ? date : undefined;
  return { tokenizer, config, template: chosen, encoder, unfixedDate };
}
