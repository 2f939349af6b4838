// Byte-pair encoding of one word, to the ids that Hugging Face's tokenizers gives: the merge of lowest rank first, the
// leftmost of equals. (R. Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016.)

import * as v from "valibot";
import { FormatError } from "../../errors.ts";
import { BYTE_CHARACTERS, bytesAsCharacters } from "./byte-level.ts";
import { PairRanks } from "./pair-ranks.ts";
import type { TokenBuffer } from "./token-buffer.ts";
import { Word } from "./word.ts";
import { WordCache } from "./word-cache.ts";

const BpeSchema = v.object({
  type: v.optional(v.literal("BPE")),
  vocab: v.custom<Record<string, number>>(isVocabulary, "expected an object of token ids"),
  merges: v.custom<(string | [string, string])[]>(isMerges, "expected a list of pairs of tokens"),
  unk_token: v.nullish(v.string()),
  byte_fallback: v.nullish(v.boolean()),
  fuse_unk: v.nullish(v.boolean()),
  ignore_merges: v.nullish(v.boolean()),
  continuing_subword_prefix: v.nullish(v.literal("")),
  end_of_word_suffix: v.nullish(v.literal("")),
  dropout: v.nullish(v.literal(0)),
});

/** By hand: a schema's record leaves out names such as "constructor", which are tokens like any other. */
function isVocabulary(value: unknown): boolean {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  return Object.values(value).every((id) => Number.isInteger(id) && id >= 0 && id < 0x1000000);
}

function isMerges(value: unknown): boolean {
  const isPair = (pair: unknown): boolean =>
    typeof pair === "string"
      ? pair.includes(" ")
      : Array.isArray(pair) && pair.length === 2 && pair.every((token) => typeof token === "string");
  return Array.isArray(value) && value.every(isPair);
}

/** SentencePiece's visible space, U+2581. */
const METASPACE = "\u2581";

const METASPACE_UNIT = 0x2581;
/** The character of each byte where the vocabulary holds bytes. */
const BYTE_UNITS = Uint16Array.from(BYTE_CHARACTERS, (character) => character.charCodeAt(0)); // [256]

export class BpeModel {
  readonly vocab: ReadonlyMap<string, number>;
  private readonly byteIds: Int32Array | null; // [256], id of <0xNN> or -1, where unknown characters fall back to bytes
  private readonly unkId: number | null;
  private readonly fuseUnk: boolean;
  private readonly ignoreMerges: boolean;
  private readonly ranks: PairRanks;
  private readonly merged: Int32Array; // [rank], id that the merge makes
  /** True where no merge puts a visible space behind anything but a visible space: words can be encoded alone. */
  private readonly wordsAreApart: boolean;
  private readonly asBytes: boolean;
  private readonly unitIds = new Int32Array(0x10000).fill(-1); // id of each token of one UTF-16 unit
  private readonly cache = new WordCache();
  private readonly word = new Word();

  /**
   * `model` is the part of that name of a tokenizer.json; `path` names the file in errors. With `asBytes`, pieces are
   * plain text and the vocabulary holds bytes written as characters (byte-level.ts).
   */
  constructor(model: unknown, path: string, asBytes = false) {
    const kind = (model as { type?: unknown } | null | undefined)?.type;
    if (typeof kind === "string" && kind !== "BPE") {
      throw new FormatError(path, `a tokenizer model of type BPE was expected (Llama's), got ${kind}`);
    }
    const parsed = v.safeParse(BpeSchema, model);
    if (!parsed.success) {
      const issue = parsed.issues[0];
      const where = v.getDotPath(issue);
      throw new FormatError(path, `model${where === null ? "" : `.${where}`}: ${issue.message}`);
    }
    const { vocab, merges, unk_token, byte_fallback, fuse_unk, ignore_merges } = parsed.output;
    this.vocab = new Map(Object.entries(vocab));
    for (const [token, id] of this.vocab) if (token.length === 1) this.unitIds[token.charCodeAt(0)] = id;
    this.unkId = (typeof unk_token === "string" ? this.vocab.get(unk_token) : undefined) ?? null;
    this.asBytes = asBytes;
    this.byteIds = byte_fallback === true ? this.bytesOf() : null;
    this.fuseUnk = fuse_unk === true;
    this.ignoreMerges = ignore_merges === true;
    this.ranks = new PairRanks(merges.length);
    this.merged = new Int32Array(merges.length);
    let apart = !asBytes && !this.ignoreMerges && this.vocab.has(METASPACE);
    for (let rank = 0; rank < merges.length; rank++) {
      const pair = merges[rank]!;
      const space = typeof pair === "string" ? pair.indexOf(" ") : -1;
      const left = typeof pair === "string" ? pair.slice(0, space) : pair[0];
      const right = typeof pair === "string" ? pair.slice(space + 1) : pair[1];
      const leftId = this.vocab.get(left);
      const rightId = this.vocab.get(right);
      const id = this.vocab.get(left + right);
      if (leftId === undefined || rightId === undefined || id === undefined) {
        const lacking = leftId === undefined ? left : rightId === undefined ? right : left + right;
        throw new FormatError(
          path,
          `model.merges[${rank}]: ${JSON.stringify(lacking.slice(0, 100))} is not in model.vocab`,
        );
      }
      this.ranks.set(leftId, rightId, rank);
      this.merged[rank] = id;
      if (right.includes(METASPACE) && /[^\u2581]\u2581/.test(left + right)) apart = false;
    }
    this.wordsAreApart = apart;
  }

  /** Appends to `out` the tokens of the piece at [begin, end) of a text, which no pre-tokenizer splits further. */
  encode(text: string, begin: number, end: number, out: TokenBuffer): void {
    let done = begin;
    if (this.wordsAreApart) {
      for (let i = begin + 1; i < end; i++) {
        if (text.charCodeAt(i) !== METASPACE_UNIT || text.charCodeAt(i - 1) === METASPACE_UNIT) continue;
        this.encodeWord(text, done, i, out);
        done = i;
      }
    }
    this.encodeWord(text, done, end, out);
  }

  private encodeWord(text: string, begin: number, end: number, out: TokenBuffer): void {
    if (this.cache.copy(text, begin, end, out)) return;
    const first = out.count;
    this.merge(text, begin, end, out);
    this.cache.add(text, begin, end, out, first);
  }

  private merge(text: string, begin: number, end: number, out: TokenBuffer): void {
    if (this.ignoreMerges) {
      const word = text.slice(begin, end);
      const whole = this.vocab.get(this.asBytes ? bytesAsCharacters(word) : word);
      if (whole !== undefined) {
        out.add(whole, begin, end);
        return;
      }
    }
    const { word } = this;
    word.clear();
    this.addSymbols(text, begin, end);
    word.merge(this.ranks, this.merged);
    // Places follow from widths, as in Hugging Face's tokenizers: a character without a token moves those behind it.
    // [byte, byteEnd) are the bytes of the character at [at, next).
    let at = begin;
    let next = begin + unitsAt(text, begin, end);
    let byteEnd = this.writtenBytes(text, begin, end);
    const reach = (byte: number): void => {
      while (byte >= byteEnd && next < end) {
        at = next;
        next += unitsAt(text, at, end);
        byteEnd += this.writtenBytes(text, at, end);
      }
    };
    let byte = 0;
    for (let place = 0; place < word.count; place++) {
      if (word.ids[place]! < 0) continue;
      reach(byte);
      const start = at;
      byte += word.widths[place]!;
      reach(byte - 1);
      out.add(word.ids[place]!, start, next);
    }
  }

  /** The symbols before any merge: from the vocabulary, else as bytes, else as the unknown token, else as nothing. */
  private addSymbols(text: string, begin: number, end: number): void {
    const { word } = this;
    let unknown = 0; // bytes
    const flush = (): void => {
      if (unknown > 0) word.add(this.unkId!, unknown);
      unknown = 0;
    };
    const add = (point: number): void => {
      const id = this.idOf(point);
      const width = utf8Width(point);
      if (id >= 0) {
        flush();
        word.add(id, width);
      } else if (this.byteIds !== null && this.hasBytes(point)) {
        // an unknown token before them comes behind them, as in Hugging Face's tokenizers
        for (let i = 0; i < width; i++) word.add(this.byteIds[utf8Byte(point, i)]!, 1);
      } else if (this.unkId !== null) {
        if (!this.fuseUnk) flush();
        unknown += width;
      }
    };
    for (let at = begin; at < end; ) {
      const point = pointAt(text, at, end);
      if (!this.asBytes) add(point);
      else for (let i = 0; i < utf8Width(point); i++) add(BYTE_UNITS[utf8Byte(point, i)]!);
      at += point > 0xffff ? 2 : 1;
    }
    flush();
  }

  /** Bytes in UTF-8 of the character at `at` as the vocabulary writes it. */
  private writtenBytes(text: string, at: number, end: number): number {
    const point = pointAt(text, at, end);
    if (!this.asBytes) return utf8Width(point);
    return point < 0x80 ? utf8Width(BYTE_UNITS[point]!) : 2 * utf8Width(point);
  }

  /** The id of a character, −1 where it has none. */
  private idOf(point: number): number {
    return point <= 0xffff ? this.unitIds[point]! : (this.vocab.get(String.fromCodePoint(point)) ?? -1);
  }

  private hasBytes(point: number): boolean {
    for (let i = 0; i < utf8Width(point); i++) if (this.byteIds![utf8Byte(point, i)]! < 0) return false;
    return true;
  }

  /** Ids of the tokens <0x00> to <0xFF>, -1 where the vocabulary lacks one. */
  private bytesOf(): Int32Array {
    return Int32Array.from({ length: 256 }, (_, byte) => {
      const name = `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
      return this.vocab.get(name) ?? -1;
    });
  }
}

/** The character at `at` of a text that goes to `end`. */
function pointAt(text: string, at: number, end: number): number {
  return at + 1 < end ? text.codePointAt(at)! : text.charCodeAt(at);
}

function unitsAt(text: string, at: number, end: number): number {
  return pointAt(text, at, end) > 0xffff ? 2 : 1;
}

/** Bytes of a character in UTF-8. */
function utf8Width(point: number): number {
  return point < 0x80 ? 1 : point < 0x800 ? 2 : point <= 0xffff ? 3 : 4;
}

/** Byte i of a character in UTF-8; half of a surrogate pair is written as U+FFFD, as TextEncoder does. */
function utf8Byte(point: number, i: number): number {
  if (point < 0x80) return point;
  const whole = point >= 0xd800 && point < 0xe000 ? 0xfffd : point;
  const width = utf8Width(whole);
  const bits = whole >> (6 * (width - 1 - i));
  return i > 0 ? 0x80 | (bits & 0x3f) : bits | ((0xf00 >> width) & 0xff);
}
