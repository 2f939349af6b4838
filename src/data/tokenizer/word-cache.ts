// Words that were encoded before, with their tokens: a hash table over the words' own units, so that looking for one
// makes no string.

import { TokenBuffer } from "./token-buffer.ts";

const MOST_WORDS = 1 << 17;
const SLOTS = 2 * MOST_WORDS;
/** Units of the longest word that is kept. */
const LONGEST = 64;
/** Fields of a word: where its units begin, how many they are, where its tokens begin, how many those are. */
const FIELDS = 4;

export class WordCache {
  private readonly slots = new Int32Array(SLOTS); // 1 + number of the word, 0 where a slot is free
  private words = new Int32Array(1024 * FIELDS); // [words, FIELDS]
  private units = new Uint16Array(8192);
  private tokens = new TokenBuffer(); // their places count from their word's begin
  private count = 0;
  private unitCount = 0;

  /** Appends to `out` the tokens of the word at [begin, end) of a text. False where it is not here. */
  copy(text: string, begin: number, end: number, out: TokenBuffer): boolean {
    if (end - begin > LONGEST) return false;
    const word = this.slots[this.slot(text, begin, end)]! - 1;
    if (word < 0) return false;
    const first = this.words[word * FIELDS + 2]!;
    const length = this.words[word * FIELDS + 3]!;
    out.reserve(length);
    const { ids, starts, ends, count } = out;
    const { tokens } = this;
    for (let i = 0; i < length; i++) {
      ids[count + i] = tokens.ids[first + i]!;
      starts[count + i] = begin + tokens.starts[first + i]!;
      ends[count + i] = begin + tokens.ends[first + i]!;
    }
    out.count = count + length;
    return true;
  }

  /** Keeps the word at [begin, end), unless it is long; its tokens are those of `from` behind `first`. */
  add(text: string, begin: number, end: number, from: TokenBuffer, first: number): void {
    if (end - begin > LONGEST) return;
    if (this.count === MOST_WORDS) this.clear();
    const word = this.count++;
    if (this.count * FIELDS > this.words.length) {
      const all = new Int32Array(2 * this.words.length);
      all.set(this.words);
      this.words = all;
    }
    if (this.unitCount + LONGEST > this.units.length) {
      const all = new Uint16Array(2 * this.units.length);
      all.set(this.units);
      this.units = all;
    }
    this.words.set([this.unitCount, end - begin, this.tokens.count, from.count - first], word * FIELDS);
    this.slots[this.slot(text, begin, end)] = word + 1;
    for (let i = begin; i < end; i++) this.units[this.unitCount++] = text.charCodeAt(i);
    for (let i = first; i < from.count; i++) {
      this.tokens.add(from.ids[i]!, from.starts[i]! - begin, from.ends[i]! - begin);
    }
  }

  private clear(): void {
    this.slots.fill(0);
    this.tokens.count = 0;
    this.count = 0;
    this.unitCount = 0;
  }

  /** Where the word is, or would be. */
  private slot(text: string, begin: number, end: number): number {
    let hash = end - begin;
    for (let i = begin; i < end; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
    let slot = (hash ^ (hash >>> 15)) & (SLOTS - 1);
    while (this.slots[slot] !== 0 && !this.isWord(this.slots[slot]! - 1, text, begin, end)) {
      slot = (slot + 1) & (SLOTS - 1);
    }
    return slot;
  }

  private isWord(word: number, text: string, begin: number, end: number): boolean {
    if (this.words[word * FIELDS + 1] !== end - begin) return false;
    const first = this.words[word * FIELDS]!;
    for (let i = begin, k = first; i < end; i++, k++) {
      if (this.units[k] !== text.charCodeAt(i)) return false;
    }
    return true;
  }
}
