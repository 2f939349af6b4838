// Byte-pair encoding of one word, to the ids that Hugging Face's tokenizers gives: the merge of lowest rank first, the
// leftmost of equals. (R. Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016.)
// Ours because the library's keys every pair by a JSON string, which costs seconds on a data set.

import * as v from "valibot";
import { FormatError } from "../errors.ts";

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
export const METASPACE = "\u2581";

const CACHED_WORDS = 1 << 17;
const CACHED_LENGTH = 64;
/** A queued merge is rank · 2^30 + place, exact in float64 while ranks stay below 2^23. */
const PLACE = 2 ** 30;

export class BpeModel {
  readonly vocab: ReadonlyMap<string, number>;
  private readonly byteIds: Int32Array | null; // [256], id of <0xNN>, where unknown characters fall back to bytes
  private readonly unkId: number | null;
  private readonly fuseUnk: boolean;
  private readonly ignoreMerges: boolean;
  private readonly ranks = new Map<number, number>(); // left id · stride + right id → rank
  private readonly merged: Int32Array; // [rank], id that the merge makes
  private readonly stride: number;
  /** True where no merge puts a visible space behind anything but a visible space: words can be encoded alone. */
  private readonly wordsAreApart: boolean;
  private readonly cache = new Map<string, Int32Array>();

  /** `model` is the part of that name of a tokenizer.json; `path` names the file in errors. */
  constructor(model: unknown, path: string) {
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
    this.stride = 1 + this.vocab.values().reduce((most, id) => Math.max(most, id), 0);
    this.unkId = (typeof unk_token === "string" ? this.vocab.get(unk_token) : undefined) ?? null;
    this.byteIds = byte_fallback === true ? this.bytesOf() : null;
    this.fuseUnk = fuse_unk === true;
    this.ignoreMerges = ignore_merges === true;
    this.merged = new Int32Array(merges.length);
    let apart = true;
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
          `model.merges[${rank}]: ${JSON.stringify(lacking)} is not in model.vocab`,
        );
      }
      this.ranks.set(leftId * this.stride + rightId, rank);
      this.merged[rank] = id;
      if (right.includes(METASPACE) && /[^\u2581]\u2581/.test(left + right)) apart = false;
    }
    this.wordsAreApart = apart;
  }

  /** Appends to `out` the ids of a piece of normalised text that no pre-tokenizer splits further. */
  encode(piece: string, out: number[]): void {
    if (!this.wordsAreApart || !piece.includes(METASPACE)) {
      this.encodeWord(piece, out);
      return;
    }
    let begin = 0;
    for (let i = piece.indexOf(METASPACE, 1); i > 0; i = piece.indexOf(METASPACE, i + 1)) {
      if (piece[i - 1] === METASPACE) continue;
      this.encodeWord(piece.slice(begin, i), out);
      begin = i;
    }
    this.encodeWord(piece.slice(begin), out);
  }

  private encodeWord(word: string, out: number[]): void {
    let ids = this.cache.get(word);
    if (ids === undefined) {
      ids = this.merge(word);
      if (this.cache.size >= CACHED_WORDS) this.cache.clear();
      if (word.length <= CACHED_LENGTH) this.cache.set(word, ids);
    }
    for (const id of ids) out.push(id);
  }

  private merge(word: string): Int32Array {
    if (this.ignoreMerges) {
      const whole = this.vocab.get(word);
      if (whole !== undefined) return Int32Array.of(whole);
    }
    const ids = this.characterIds(word);
    const count = ids.length;
    if (count < 2) return ids;
    const next = Int32Array.from({ length: count }, (_, i) => (i + 1 < count ? i + 1 : -1));
    const previous = Int32Array.from({ length: count }, (_, i) => i - 1);
    const queue = new MinHeap();
    const rankAt = (place: number): number => {
      const right = next[place]!;
      return right < 0 ? -1 : (this.ranks.get(ids[place]! * this.stride + ids[right]!) ?? -1);
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
      ids[right] = -1;
      next[place] = after;
      if (after >= 0) previous[after] = place;
      if (previous[place]! >= 0) enqueue(previous[place]!);
      enqueue(place);
    }
    return ids.filter((id) => id >= 0);
  }

  /** Ids of the characters, before any merge: from the vocabulary, else as bytes, else as the unknown token. */
  private characterIds(word: string): Int32Array {
    const ids: number[] = [];
    let unknownBefore = false;
    for (const character of word) {
      const id = this.vocab.get(character);
      const unknown = id === undefined && this.byteIds === null;
      if (id !== undefined) ids.push(id);
      else if (this.byteIds !== null) {
        for (const byte of new TextEncoder().encode(character)) ids.push(this.byteIds[byte]!);
      } else if (this.unkId !== null && !(this.fuseUnk && unknownBefore)) ids.push(this.unkId);
      unknownBefore = unknown;
    }
    return Int32Array.from(ids);
  }

  /** Ids of the tokens <0x00> to <0xFF>, or null where the vocabulary lacks one (then there is no fallback). */
  private bytesOf(): Int32Array | null {
    const ids = new Int32Array(256);
    for (let byte = 0; byte < 256; byte++) {
      const id = this.vocab.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
      if (id === undefined) return null;
      ids[byte] = id;
    }
    return ids;
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
