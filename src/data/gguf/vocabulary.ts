// A tokenizer as GGUF has it: llama.cpp's "llama" (SentencePiece: visible spaces, scores) or "gpt2" (bytes as characters,
// merges).

import { existsSync } from "node:fs";
import { join } from "node:path";
import { FormatError } from "../../errors.ts";
import { bool, f32s, type GgufField, i32s, text, texts } from "../../formats/gguf/values.ts";
import { Tokenizer } from "../tokenizer.ts";
import { preTokenizerName } from "./pre-tokenizer.ts";
import { readPieces } from "./sentencepiece.ts";
import { readJson, specialTokenFields } from "./special-tokens.ts";

type Json = Record<string, unknown>;

/** llama.cpp's types of tokens, and SentencePiece's. */
const TYPES = { normal: 1, control: 3, user: 4, unused: 5, byte: 6 } as const;

/** Of a token that SentencePiece's merges never make: below every one that they do. */
const NEVER_MERGED = -1e6;
/** What llama.cpp's converters give added tokens, and ids without a token. */
const ADDED_SCORE = -1000;
const UNUSED_SCORE = -10000;

interface Vocabulary {
  tokens: string[];
  types: number[];
  scores: number[];
}

interface Added {
  id: number;
  content: string;
  special?: boolean;
}

/**
 * The tokenizer's fields, its tokens filled up to `vocabSize`. `architecture`: llama.cpp's name for the model's. Throws
 * FormatError, NeftuneError.
 */
export function tokenizerFields(dir: string, vocabSize: number, architecture: string): GgufField[] {
  const path = join(dir, "tokenizer.json");
  const pieces = join(dir, "tokenizer.model");
  const hasPieces = existsSync(pieces);
  const tokenizer = hasPieces && !existsSync(path) ? null : Tokenizer.load(dir);
  const json = readJson(path);
  const model = (json.model ?? {}) as Json;
  const isSpm = hasPieces || model.byte_fallback === true;
  const vocabulary = hasPieces ? fromPieces(dir, pieces) : fromJson(json, model, isSpm);
  const { tokens, types, scores } = filledUp(vocabulary, vocabSize, hasPieces ? pieces : path);
  const settings = readJson(join(dir, "tokenizer_config.json"));
  const prefix = architecture === "llama" ? settings.add_prefix_space : null;
  const special = specialTokenFields(dir, json, isSpm ? tokens.length : null);
  return withoutBos(architecture === "llama" && vocabSize === GRANITE_VOCABULARY, [
    ...(typeof prefix === "boolean" ? [field("add_space_prefix", bool(prefix))] : []),
    field("model", text(isSpm ? "llama" : "gpt2")),
    field("pre", text(isSpm ? "default" : preTokenizerName(json, tokenizer!, path))),
    field("tokens", texts(tokens)),
    ...(isSpm ? [field("scores", f32s(scores))] : []),
    field("token_type", i32s(types)),
    ...(isSpm ? [] : [field("merges", texts(mergesOf(model)))]),
    ...special,
  ]);
}

const field = (key: string, value: GgufField[1]): GgufField => [`tokenizer.ggml.${key}`, value];

/** llama.cpp's converters take a vocabulary of this size for one that has no BOS, whatever its files say. */
const GRANITE_VOCABULARY = 49152;

function withoutBos(applies: boolean, fields: GgufField[]): GgufField[] {
  if (!applies) return fields;
  const none = field("add_bos_token", bool(false));
  const at = fields.findIndex(([key]) => key === none[0]);
  return at < 0 ? [...fields, none] : fields.with(at, none);
}

/** SentencePiece's own pieces, with what the files beside them add. */
function fromPieces(dir: string, path: string): Vocabulary {
  const vocabulary: Vocabulary = { tokens: [], types: [], scores: [] };
  for (const { text, score, type } of readPieces(path)) {
    vocabulary.tokens.push(text);
    vocabulary.scores.push(score);
    vocabulary.types.push(type);
  }
  for (const [content, id] of Object.entries(readJson(join(dir, "added_tokens.json"))))
    put(vocabulary, { id: Number(id), content, type: TYPES.user });
  const settings = readJson(join(dir, "tokenizer_config.json"));
  for (const [id, token] of Object.entries((settings.added_tokens_decoder ?? {}) as Record<string, Added>))
    put(vocabulary, { id: Number(id), ...ofAdded(token) });
  return vocabulary;
}

/** tokenizer.json's BPE. Without SentencePiece's scores, a merge made earlier scores higher: llama.cpp merges by score. */
function fromJson(json: Json, model: Json, isSpm: boolean): Vocabulary {
  const vocabulary: Vocabulary = { tokens: [], types: [], scores: [] };
  const ranks = new Map<string, number>();
  for (const [rank, merge] of mergesOf(model).entries()) {
    const made = merge.replace(" ", "");
    if (!ranks.has(made)) ranks.set(made, rank);
  }
  for (const [content, id] of Object.entries((model.vocab ?? {}) as Record<string, number>)) {
    const isByte = isSpm && /^<0x[0-9A-Fa-f]{2}>$/.test(content);
    const rank = ranks.get(content);
    vocabulary.tokens[id] = content;
    vocabulary.types[id] = isByte ? TYPES.byte : TYPES.normal;
    vocabulary.scores[id] = isByte ? 0 : rank === undefined ? NEVER_MERGED : -rank;
  }
  for (const token of (json.added_tokens ?? []) as Added[]) {
    put(vocabulary, { id: token.id, ...ofAdded(token) });
    if (isSpm) vocabulary.scores[token.id] = 0;
  }
  return vocabulary;
}

/** As texts; a space within a part of a pair, which separates the parts there, as Ġ. */
function mergesOf(model: Json): string[] {
  const merges = (model.merges ?? []) as (string | [string, string])[];
  return merges.map((merge) =>
    typeof merge === "string" ? merge : merge.map((part) => part.replaceAll(" ", "\u0120")).join(" "),
  );
}

/** Some tokenizers leave tokens of control unmarked: those look like it. Other added tokens hold plain spaces. */
function ofAdded({ content, special }: Added): { content: string; type: number } {
  const looksSpecial = /^(?:<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\])$/s.test(content);
  if (special === true || looksSpecial) return { content, type: TYPES.control };
  return { content: content.replaceAll("▁", " "), type: TYPES.user };
}

function put(vocabulary: Vocabulary, token: { id: number; content: string; type: number }): void {
  vocabulary.tokens[token.id] = token.content;
  vocabulary.types[token.id] = token.type;
  vocabulary.scores[token.id] = ADDED_SCORE;
}

/** Ids without a token get one that is never used. */
function filledUp({ tokens, types, scores }: Vocabulary, size: number, path: string): Vocabulary {
  if (tokens.length > size)
    throw new FormatError(
      path,
      `has ids up to ${tokens.length - 1}, but config.json's vocab_size is ${size}`,
    );
  for (let id = 0; id < size; id++) {
    if (tokens[id] !== undefined) continue;
    tokens[id] = `[PAD${id}]`;
    types[id] = TYPES.unused;
    scores[id] = UNUSED_SCORE;
  }
  return { tokens, types, scores };
}
