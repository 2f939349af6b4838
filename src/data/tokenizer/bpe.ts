// Byte-pair encoding of one word, to the ids that Hugging Face's tokenizers gives: the merge of lowest rank first, the
// leftmost of equals. (R. Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016.)

import * as v from "valibot";
import { FormatError } from "../../errors.ts";
import { BYTE_CHARACTERS, bytesAsCharacters } from "./byte-level.ts";
import { PairRanks } from "./pair-ranks.ts";
import type { TokenBuffer } from "./token-buffer.ts";

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

const utf8 = new TextEncoder();
const CACHED_WORDS = 1 << 17;
const CACHED_LENGTH = 64;
/** A queued merge is rank · 2^30 + place, exact in float64 while ranks stay below 2^23. */
const PLACE = 2 ** 30;

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
  /** Of each word: its ids, then their starts, then their ends, in units of the word. */
  private readonly cache = new Map<string, number[]>();

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

  /** Appends to `out` the tokens of a piece that no pre-tokenizer splits further; it stands at `begin` in its text. */
  encode(piece: string, begin: number, out: TokenBuffer): void {
    let done = 0;
    if (this.wordsAreApart) {
      for (let i = piece.indexOf(METASPACE, 1); i > 0; i = piece.indexOf(METASPACE, i + 1)) {
        if (piece[i - 1] === METASPACE) continue;
        this.encodeWord(piece.slice(done, i), begin + done, out);
        done = i;
      }
    }
    this.encodeWord(done === 0 ? piece : piece.slice(done), begin + done, out);
  }

  private encodeWord(word: string, begin: number, out: TokenBuffer): void {
    let found = this.cache.get(word);
    if (found === undefined) {
      found = this.merge(word);
      if (this.cache.size >= CACHED_WORDS) this.cache.clear();
      if (word.length <= CACHED_LENGTH) this.cache.set(word, found);
    }
    const length = found.length / 3;
    out.reserve(length);
    const { ids, starts, ends, count } = out;
    for (let i = 0; i < length; i++) {
      ids[count + i] = found[i]!;
      starts[count + i] = begin + found[length + i]!;
      ends[count + i] = begin + found[2 * length + i]!;
    }
    out.count += length;
  }

  private merge(word: string): number[] {
    if (this.ignoreMerges) {
      const whole = this.vocab.get(this.asBytes ? bytesAsCharacters(word) : word);
      if (whole !== undefined) return [whole, 0, word.length];
    }
    const { ids, widths, starts, ends } = this.characters(word);
    const count = ids.length;
    const next = Int32Array.from({ length: count }, (_, i) => (i + 1 < count ? i + 1 : -1));
    const previous = Int32Array.from({ length: count }, (_, i) => i - 1);
    const queue = new MinHeap();
    const rankAt = (place: number): number => {
      const right = next[place]!;
      return right < 0 ? -1 : this.ranks.get(ids[place]!, ids[right]!);
    };
    const enqueue = (place: number): void => {
      const rank = rankAt(place);
      if (rank >= 0) queue.push(rank * PLACE + place);
    };
    for (let place = 0; place < count - 1; place++) enqueue(place);
    for (let entry = queue.pop(); entry !== undefined; entry = queue.pop()) {
      const rank = Math.floor(entry / PLACE);
      const place = entry - rank * PLACE;
      // an entry is stale when a merge since then took one of its two sides
      if (ids[place]! < 0 || rankAt(place) !== rank) continue;
      const right = next[place]!;
      const after = next[right]!;
      ids[place] = this.merged[rank]!;
      widths[place]! += widths[right]!;
      ids[right] = -1;
      next[place] = after;
      if (after >= 0) previous[after] = place;
      if (previous[place]! >= 0) enqueue(previous[place]!);
      enqueue(place);
    }
    // places follow from widths, as in Hugging Face's tokenizers: a character without a token moves those behind it
    const left = { ids: [] as number[], starts: [] as number[], ends: [] as number[] };
    let byte = 0;
    for (let place = 0; place < count; place++) {
      if (ids[place]! < 0) continue;
      left.ids.push(ids[place]!);
      left.starts.push(starts[byte]!);
      byte += widths[place]!;
      left.ends.push(ends[byte - 1]!);
    }
    return left.ids.concat(left.starts, left.ends);
  }

  /**
   * The characters before any merge: from the vocabulary, else as bytes, else as the unknown token, else as nothing.
   * `widths` are their bytes in UTF-8; `starts` and `ends` are, for each byte of the word, its character's place there.
   */
  private characters(word: string): { ids: number[]; widths: number[]; starts: number[]; ends: number[] } {
    const ids: number[] = [];
    const widths: number[] = [];
    const starts: number[] = [];
    const ends: number[] = [];
    let unknown = 0; // bytes
    const add = (id: number, width: number): void => {
      ids.push(id);
      widths.push(width);
    };
    const flush = (): void => {
      if (unknown > 0) add(this.unkId!, unknown);
      unknown = 0;
    };
    const character = (text: string, start: number, end: number): void => {
      const bytes = utf8.encode(text);
      for (let i = 0; i < bytes.length; i++) {
        starts.push(start);
        ends.push(end);
      }
      const id = this.vocab.get(text);
      if (id !== undefined) {
        flush();
        add(id, bytes.length);
      } else if (this.byteIds !== null && bytes.every((byte) => this.byteIds![byte]! >= 0)) {
        // an unknown token before them comes behind them, as in Hugging Face's tokenizers
        for (const byte of bytes) add(this.byteIds[byte]!, 1);
      } else if (this.unkId !== null) {
        if (!this.fuseUnk) flush();
        unknown += bytes.length;
      }
    };
    let at = 0;
    for (const one of word) {
      const end = at + one.length;
      if (this.asBytes) for (const byte of utf8.encode(one)) character(BYTE_CHARACTERS[byte]!, at, end);
      else character(one, at, end);
      at = end;
    }
    flush();
    return { ids, widths, starts, ends };
  }

  /** Ids of the tokens <0x00> to <0xFF>, -1 where the vocabulary lacks one. */
  private bytesOf(): Int32Array {
    return Int32Array.from({ length: 256 }, (_, byte) => {
      const name = `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
      return this.vocab.get(name) ?? -1;
    });
  }
}

/** A binary heap of numbers, the least on top. */
class MinHeap {
  private readonly items: number[] = [];

  push(item: number): void {
    const items = this.items;
    let at = items.length;
    items.push(item);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (items[parent]! <= item) break;
      items[at] = items[parent]!;
      at = parent;
    }
    items[at] = item;
  }

  pop(): number | undefined {
    const items = this.items;
    const top = items[0];
    const last = items.pop();
    if (last === undefined || items.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && items[child + 1]! < items[child]!) child++;
      if (items[child]! >= last) break;
      items[at] = items[child]!;
      at = child;
    }
    items[at] = last;
    return top;
  }
}
