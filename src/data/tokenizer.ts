// A Hugging Face tokenizer: text to ids and back. Normaliser, pre-tokenizer and decoder are the library's; added tokens
// and byte-pair encoding are ours, for speed and because special text in data has to stay plain.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer as Library } from "@huggingface/tokenizers";
import { FormatError, NeftuneError } from "../errors.ts";
import { readJsonText } from "../formats/json-file.ts";
import { type AddedToken, parseAddedTokens, type Section, TokenMatcher } from "./added-tokens.ts";
import { BpeModel } from "./bpe.ts";
import type { Encoding } from "./targets.ts";
import { readSettings, type TokenizerSettings } from "./tokenizer-settings.ts";

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

  private readonly library: Library;
  private readonly bpe: BpeModel;
  private readonly byteLevel: boolean;
  private readonly all: TokenMatcher; // added tokens, matched before normalising
  private readonly plain: TokenMatcher; // those of them that are not special
  private readonly normalized: TokenMatcher; // plain added tokens, matched in normalised text
  private readonly special: TokenMatcher; // to find special text in data
  private readonly tokens: string[]; // [vocabSize], undefined where an id has none
  private readonly specialIds: ReadonlySet<number>;
  private readonly byteOf = new Map<number, number>(); // id of <0xNN> → NN

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
    this.bpe = new BpeModel(parts.model, path);
    const added = parseAddedTokens(parts.added_tokens, path);
    try {
      this.library = new Library(
        {
          normalizer: parts.normalizer ?? null,
          pre_tokenizer: parts.pre_tokenizer ?? null,
          post_processor: null,
          decoder: parts.decoder ?? null,
          added_tokens: added,
          model: { ...(parts.model as object), type: "BPE", merges: [] },
        },
        {},
      );
      this.library.normalizer?.("a b");
      this.library.pre_tokenizer?.("a b", { section_index: 0 });
    } catch (error) {
      throw new FormatError(path, `cannot be used: ${(error as Error).message}`, { cause: error });
    }

    this.tokens = [];
    for (const [token, id] of this.bpe.vocab) this.tokens[id] = token;
    for (const token of added) this.tokens[token.id] = token.content;
    this.vocabSize = this.tokens.length;
    for (const [token, id] of this.bpe.vocab) {
      const byte = /^<0x([0-9A-F]{2})>$/.exec(token)?.[1];
      if (byte !== undefined) this.byteOf.set(id, Number.parseInt(byte, 16));
    }

    // Old Llama files mark special tokens as normalised too. The normaliser puts a space before a text, so such a
    // token would be found only where a text begins with it: special tokens are matched in the text as it is.
    const isNormalized = (token: AddedToken): boolean =>
      token.normalized && !token.special && this.library.normalizer !== null;
    const matcher = (tokens: AddedToken[], content = (token: AddedToken) => token.content): TokenMatcher =>
      new TokenMatcher(tokens, tokens.map(content));
    const raw = added.filter((token) => !isNormalized(token));
    this.all = matcher(raw);
    this.plain = matcher(raw.filter((token) => !token.special));
    this.normalized = matcher(added.filter(isNormalized), (token) => this.normalize(token.content));
    this.specialIds = new Set(added.filter((token) => token.special).map((token) => token.id));
    this.special = matcher(added.filter((token) => token.special));
    this.byteLevel = JSON.stringify(parts.pre_tokenizer ?? null).includes('"ByteLevel"');

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
    const ids: number[] = [];
    if (options.addBos === true && this.addsBos) ids.push(this.bosId!);
    for (const section of this.sections(text, options.parseSpecial === true))
      this.encodeSection(section, ids);
    return Int32Array.from(ids);
  }

  /** Text of ids; ids outside the vocabulary give none. Every byte that is no part of whole UTF-8 becomes U+FFFD. */
  decode(ids: ArrayLike<number>, options: { skipSpecial?: boolean } = {}): string {
    let known = this.known(Array.from(ids));
    if (options.skipSpecial === true) known = known.filter((id) => !this.specialIds.has(id));
    if (this.library.decoder === null) return this.texts(known).join(" ");
    return known.length === 0
      ? ""
      : this.library.decoder(this.byteLevel ? this.texts(known) : this.joinBytes(known));
  }

  /** Cuts a text at its added tokens; at the special ones only where `parseSpecial`. */
  sections(text: string, parseSpecial: boolean): Section[] {
    return (parseSpecial ? this.all : this.plain).split(text);
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
    const ids: number[] = [];
    const starts: number[] = [];
    const ends: number[] = [];
    for (const section of sections) {
      const first = ids.length;
      this.encodeSection(section, ids);
      const spans = this.spans(section, ids.slice(first));
      for (const [start, end] of spans) {
        starts.push(section.begin + start);
        ends.push(section.begin + end);
      }
    }
    return { ids: Int32Array.from(ids), starts: Int32Array.from(starts), ends: Int32Array.from(ends) };
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

  private texts(ids: readonly number[]): string[] {
    return ids.map((id) => this.tokens[id]!);
  }

  /** Token texts, runs of byte tokens put together: the library writes fewer U+FFFD than tokenizers does. */
  private joinBytes(ids: readonly number[]): string[] {
    const texts: string[] = [];
    for (let i = 0; i < ids.length; ) {
      const run: number[] = [];
      for (let byte = this.byteOf.get(ids[i]!); byte !== undefined; byte = this.byteOf.get(ids[++i] ?? -1))
        run.push(byte);
      if (run.length === 0) texts.push(this.tokens[ids[i++]!]!);
      else texts.push(wholeUtf8(run) ?? "\ufffd".repeat(run.length));
    }
    return texts;
  }

  private normalize(text: string): string {
    return this.library.normalizer === null ? text : this.library.normalizer(text);
  }

  private encodeSection(section: Section, ids: number[]): void {
    if (section.id !== null) {
      ids.push(section.id);
      return;
    }
    const text = this.normalize(section.text);
    for (const part of this.normalized.split(text)) {
      if (part.id !== null) {
        ids.push(part.id);
        continue;
      }
      const preTokenizer = this.library.pre_tokenizer;
      if (preTokenizer === null) {
        this.bpe.encode(part.text, ids);
        continue;
      }
      // a space is put before the first words of a text only, wherever added tokens cut it
      const first = section.begin === 0 && part.begin === 0;
      for (const word of preTokenizer(part.text, { section_index: first ? 0 : 1 }))
        this.bpe.encode(word, ids);
    }
  }

  /** Where each token of a section begins and ends in its text. */
  private spans(section: Section, ids: readonly number[]): [number, number][] {
    const { text } = section;
    if (section.id !== null) return [[0, text.length]];
    const units = this.byteLevel
      ? charactersOfBytes(text)
      : Array.from({ length: text.length }, (_, i) => [i, i + 1] as const);
    const widths = this.widths(ids);
    const total = widths.reduce((sum, [, advance]) => sum + advance, 0);
    // a space that the tokenizer put in front shares the text's first character
    const prefix = total === units.length + 1 ? 1 : 0;
    const scale = prefix === 1 || total === 0 ? 1 : units.length / total;
    let at = 0;
    return widths.map(([width, advance]) => {
      const start = Math.max(0, Math.floor(at * scale) - prefix);
      const end = Math.max(start + 1, Math.ceil((at + width) * scale) - prefix);
      at += advance;
      return [units[start]?.[0] ?? text.length, units[Math.min(end, units.length) - 1]?.[1] ?? text.length];
    });
  }

  /** The units that each token holds, and how many of them the next token does not: a character's bytes share it. */
  private widths(ids: readonly number[]): [number, number][] {
    let bytesLeft = 0;
    let width = 0;
    return ids.map((id) => {
      const byte = this.byteOf.get(id);
      const { length } = this.tokens[id]!;
      if (byte === undefined || this.byteLevel) return [length, length];
      if (bytesLeft === 0) {
        bytesLeft = byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
        width = byte < 0xf0 ? 1 : 2;
      }
      bytesLeft--;
      return [width, bytesLeft === 0 ? width : 0];
    });
  }
}

/** For each byte of a text in UTF-8, the UTF-16 units of its character. */
function charactersOfBytes(text: string): (readonly [number, number])[] {
  const units: (readonly [number, number])[] = [];
  let at = 0;
  for (const character of text) {
    const unit = [at, at + character.length] as const;
    for (let i = Buffer.byteLength(character); i > 0; i--) units.push(unit);
    at += character.length;
  }
  return units;
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

function wholeUtf8(bytes: readonly number[]): string | null {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return null;
  }
}
