// A Hugging Face tokenizer: text to ids and back, to the ids of its own library (in Rust). Special text in data stays
// plain.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { FormatError, NeftuneError } from "../errors.ts";
import { expectShallow, readJsonText } from "../formats/json-file.ts";
import type { Encoding } from "./targets.ts";
import { type AddedToken, parseAddedTokens, type Section, TokenMatcher } from "./tokenizer/added-tokens.ts";
import { AlignedText } from "./tokenizer/aligned-text.ts";
import { BpeModel } from "./tokenizer/bpe.ts";
import { decoderOf } from "./tokenizer/decoders.ts";
import { type Normalizer, normalizerOf } from "./tokenizer/normalizers.ts";
import { type PreTokenizer, preTokenizerOf } from "./tokenizer/pre-tokenizers.ts";
import { TokenBuffer } from "./tokenizer/token-buffer.ts";
import { readSettings, type TokenizerSettings } from "./tokenizer-settings.ts";

export type { Section };

/** Tokens of a text whose buffer is kept for the next one. */
const MOST_KEPT = 1 << 20;

export interface EncodeOptions {
  /** Puts the tokens before the text that the tokenizer itself begins with: BOS, or nothing. Default: no. */
  addBos?: boolean;
  /** Text that looks like a special token is that token. Default: no, it is text. */
  parseSpecial?: boolean;
}

export class Tokenizer {
  readonly bosId: number | null;
  readonly eosId: number | null;
  /** Every id that ends a generation: `eosId` and those of generation_config.json. */
  readonly eosIds: readonly number[];
  readonly bosToken: string;
  readonly eosToken: string;
  /** One more than the highest id. */
  readonly vocabSize: number;
  readonly chatTemplate: string | null;
  /** The file that has the chat template, for messages. */
  readonly chatTemplateFile: string;
  /** True where the tokenizer by itself begins a text with BOS. */
  readonly addsBos: boolean;

  private readonly bpe: BpeModel;
  private readonly normalizer: Normalizer | null;
  private readonly preTokenizer: PreTokenizer;
  private readonly decoder: ((tokens: string[]) => string) | null;
  private readonly raw: TokenMatcher; // added tokens that are found in the text as it is,
  private readonly rawNext: TokenMatcher; // and between them,
  private readonly normalized: TokenMatcher; // and in the normalized text
  private readonly special: TokenMatcher; // to find special text in data
  private readonly tokens: string[]; // [vocabSize], undefined where an id has none
  private readonly specialIds: ReadonlySet<number>;
  private buffer = new TokenBuffer(); // of the text that is being encoded

  /** The tokenizer of a folder: tokenizer.json, and tokenizer_config.json and its like where they are. */
  static load(dir: string): Tokenizer {
    const path = join(dir, "tokenizer.json");
    if (!existsSync(path)) {
      const sentencePiece = existsSync(join(dir, "tokenizer.model"));
      const hint = sentencePiece
        ? `it has only SentencePiece's tokenizer.model; convert that once with Transformers: python -c "from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('${dir}').save_pretrained('${dir}')"`
        : "name a folder that has one, such as the model's";
      throw new NeftuneError("tokenizer", `${dir}: no tokenizer.json there; ${hint}`);
    }
    let json: unknown;
    try {
      json = JSON.parse(readJsonText(path));
    } catch (error) {
      if (error instanceof NeftuneError) throw error;
      throw new FormatError(path, `not readable as JSON: ${(error as Error).message}`, { cause: error });
    }
    return new Tokenizer(json, readSettings(dir), path);
  }

  /** From the parsed tokenizer.json and what the files beside it say; `path` names the first in errors. */
  constructor(json: unknown, settings: TokenizerSettings, path = "tokenizer.json") {
    if (typeof json !== "object" || json === null || !("model" in json)) {
      throw new FormatError(path, "expected an object with a model, as Hugging Face's tokenizers writes it");
    }
    const parts = json as Record<string, unknown>;
    for (const part of ["normalizer", "pre_tokenizer", "post_processor", "decoder"]) {
      expectShallow(path, parts[part]);
    }
    try {
      this.normalizer = normalizerOf(parts.normalizer);
      this.preTokenizer = preTokenizerOf(parts.pre_tokenizer);
      this.decoder = decoderOf(parts.decoder);
    } catch (error) {
      throw new FormatError(path, `cannot be used: ${(error as Error).message}`, { cause: error });
    }
    this.bpe = new BpeModel(parts.model, path, this.preTokenizer.asBytes);
    const added = parseAddedTokens(parts.added_tokens, this.bpe.vocab, path);
    const normalForm = ({ content }: AddedToken): string => this.normalize(AlignedText.of(content)).text;
    this.tokens = [];
    for (const [token, id] of this.bpe.vocab) this.tokens[id] = token;
    for (const token of added) {
      this.tokens[token.id] = token.normalized && !token.special ? normalForm(token) : token.content;
    }
    this.vocabSize = this.tokens.length;

    // Old Llama files mark special tokens as normalized too. The normalizer puts a space before a text, so such a
    // token would be found only where a text begins with it: special tokens are matched in the text as it is.
    const matcher = (of: (token: AddedToken) => boolean, form = ({ content }: AddedToken) => content) => {
      const tokens = added.filter(of);
      return new TokenMatcher(tokens, tokens.map(form));
    };
    const late = (token: AddedToken): boolean =>
      token.normalized && !token.special && this.normalizer !== null;
    this.raw = matcher((token) => !token.normalized);
    this.rawNext = matcher((token) => token.normalized && !late(token));
    this.normalized = matcher(late, normalForm);
    this.special = matcher((token) => token.special);
    this.specialIds = new Set(added.filter((token) => token.special).map((token) => token.id));

    const idOf = (token: string | null): number | null =>
      token === null
        ? null
        : (added.find((one) => one.content === token)?.id ?? this.bpe.vocab.get(token) ?? null);
    this.bosId = idOf(settings.bosToken) ?? this.known(settings.bosIds)[0] ?? null;
    this.eosId = idOf(settings.eosToken) ?? this.known(settings.eosIds)[0] ?? null;
    this.eosIds = [
      ...new Set([...(this.eosId === null ? [] : [this.eosId]), ...this.known(settings.eosIds)]),
    ];
    this.bosToken = settings.bosToken ?? (this.bosId === null ? "" : this.tokens[this.bosId]!);
    this.eosToken = settings.eosToken ?? (this.eosId === null ? "" : this.tokens[this.eosId]!);
    this.chatTemplate = settings.chatTemplate;
    this.chatTemplateFile = settings.chatTemplateFile;
    this.addsBos =
      this.bosId !== null &&
      (settings.addBos ?? (settings.isLlama || startsWith(parts.post_processor, this.bosToken)));
  }

  /** Ids of a text: int32 [tokens]. */
  encode(text: string, options: EncodeOptions = {}): Int32Array {
    const { ids } = this.encodeText(text, options.parseSpecial === true);
    if (options.addBos !== true || !this.addsBos) return ids;
    const begun = new Int32Array(ids.length + 1).fill(this.bosId!, 0, 1);
    begun.set(ids, 1);
    return begun;
  }

  /** Text of ids; ids outside the vocabulary give none. Every byte that is not part of valid UTF-8 becomes U+FFFD. */
  decode(ids: ArrayLike<number>, options: { skipSpecial?: boolean } = {}): string {
    let known = this.known(Array.from(ids));
    if (options.skipSpecial === true) known = known.filter((id) => !this.specialIds.has(id));
    const texts = known.map((id) => this.tokens[id]!);
    return this.decoder === null ? texts.join(" ") : this.decoder(texts);
  }

  /** Cuts a text at its added tokens; at the special ones only where `parseSpecial`. */
  sections(text: string, parseSpecial: boolean): Section[] {
    return this.raw
      .split(text, parseSpecial)
      .flatMap((section) =>
        section.id !== null
          ? [section]
          : this.rawNext
              .split(section.text, parseSpecial)
              .map((next) => ({ ...next, begin: section.begin + next.begin })),
      );
  }

  /** A text's tokens and the characters that each holds; no BOS is added. */
  encodeText(text: string, parseSpecial: boolean): Encoding {
    return this.encodeSections(this.sections(text, parseSpecial));
  }

  /**
   * The same of sections: their text lies end to end, special tokens already told apart. As in Hugging Face's
   * tokenizers, a token with some bytes of a character holds that character.
   */
  encodeSections(sections: readonly Section[]): Encoding {
    const buffer = this.buffer;
    buffer.count = 0;
    for (const section of sections) {
      if (section.id === null) this.encodeSection(section, buffer);
      else buffer.add(section.id, section.begin, section.begin + section.text.length);
    }
    const { ids, starts, ends, count } = buffer;
    if (count > MOST_KEPT) this.buffer = new TokenBuffer();
    return { ids: ids.slice(0, count), starts: starts.slice(0, count), ends: ends.slice(0, count) };
  }

  /** The text with `change` made to whatever looks like a special token. */
  replaceSpecial(text: string, change: (token: string) => string): string {
    return this.special.replace(text, change);
  }

  hasSpecial(text: string): boolean {
    return this.special.occursIn(text);
  }

  private known(ids: readonly number[]): number[] {
    return ids.filter((id) => this.tokens[id] !== undefined);
  }

  private normalize(text: AlignedText): AlignedText {
    return this.normalizer === null ? text : this.normalizer(text);
  }

  private encodeSection(section: Section, buffer: TokenBuffer): void {
    const whole = this.normalize(AlignedText.of(section.text, section.begin));
    for (const part of this.normalized.split(whole.text, true)) {
      const text = whole.slice(part.begin, part.begin + part.text.length);
      if (part.id !== null) {
        buffer.add(part.id, text.start(0), text.end(text.text.length - 1));
        continue;
      }
      const first = buffer.count;
      const cut = this.preTokenizer.run(text);
      for (let k = 0; k < cut.pieces.length; k += 2) {
        this.bpe.encode(cut.text.text, cut.pieces[k]!, cut.pieces[k + 1]!, buffer);
      }
      // from places in the text that was cut to places in the source
      const { starts, ends, count } = buffer;
      for (let i = first; i < count; i++) {
        starts[i] = cut.text.start(starts[i]!);
        ends[i] = cut.text.end(ends[i]! - 1);
      }
    }
  }
}

/** True where a post-processor's template for one text begins with this token. */
function startsWith(postProcessor: unknown, token: string): boolean {
  if (typeof postProcessor !== "object" || postProcessor === null) return false;
  const { type, single, processors } = postProcessor as Record<string, unknown>;
  if (type === "Sequence" && Array.isArray(processors))
    return processors.some((one) => startsWith(one, token));
  if (type !== "TemplateProcessing" || !Array.isArray(single)) return false;
  return (single[0] as { SpecialToken?: { id?: unknown } } | null)?.SpecialToken?.id === token;
}
