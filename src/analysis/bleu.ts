// BLEU (Papineni et al. 2002, aclanthology.org/P02-1040) of a whole set of texts, as sacreBLEU computes it with its
// defaults (Post 2018, arXiv 1804.08771): 13a tokens, case kept, n-grams up to 4, exponential smoothing.

import { countNgrams, trimmedEnd, wordsOf } from "./words.ts";

const ORDER = 4;

/** Sums over texts, from which BLEU follows. */
export class Bleu {
  readonly #matching = new Array<number>(ORDER).fill(0);
  readonly #all = new Array<number>(ORDER).fill(0);
  #length = 0;
  #referenceLength = 0;

  /** Counts a text and its references: an n-gram matches as often as the reference that has it most often has it. */
  add(text: string, references: readonly string[]): void {
    const words = bleuTokens(text);
    const others = references.map(bleuTokens);
    for (let n = 1; n <= ORDER; n++) {
      const most = new Map<string, number>();
      for (const other of others) {
        for (const [ngram, count] of countNgrams(other, n)) {
          most.set(ngram, Math.max(count, most.get(ngram) ?? 0));
        }
      }
      for (const [ngram, count] of countNgrams(words, n)) {
        this.#matching[n - 1]! += Math.min(count, most.get(ngram) ?? 0);
        this.#all[n - 1]! += count;
      }
    }
    this.#length += words.length;
    this.#referenceLength += closestLength(
      words.length,
      others.map((other) => other.length),
    );
  }

  /**
   * 100 · BP · exp(mean of log p_n, n = 1 … 4), with p_n the share of n-grams that match and
   * BP = exp(min(0, 1 − reference length / length)). Where no n-gram of an order matches, its p_n is
   * 1 / (2^k · n-grams), k counting such orders. From 0 to 100.
   */
  score(): number {
    if (this.#matching.every((count) => count === 0)) return 0;
    let sum = 0;
    let smoothing = 1;
    for (let n = 0; n < ORDER; n++) {
      const all = this.#all[n]!;
      if (all === 0) return 0;
      const matching = this.#matching[n]!;
      if (matching === 0) smoothing *= 2;
      sum += Math.log(matching === 0 ? 1 / (smoothing * all) : matching / all);
    }
    const brevity = Math.min(0, 1 - this.#referenceLength / this.#length);
    return 100 * Math.exp(brevity + sum / ORDER);
  }
}

/** The reference length nearest to a text's, the shorter of two as near. */
function closestLength(length: number, references: readonly number[]): number {
  const distance = (other: number) => Math.abs(other - length);
  return references.reduce((best, other) => {
    const nearer = distance(other) - distance(best);
    return nearer < 0 || (nearer === 0 && other < best) ? other : best;
  });
}

/** The tokens of mteval-v13a: punctuation stands alone, but for dots and commas amid digits. */
export function bleuTokens(text: string): string[] {
  let line = trimmedEnd(text)
    .replaceAll("<skipped>", "")
    .replaceAll("-\n", "")
    .replaceAll("\n", " ")
    .replaceAll("&quot;", '"')
    .replaceAll("&amp;", "&")
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">");
  line = ` ${line} `
    .replace(/([{-~[-` -&(-+:-@/])/g, " $1 ")
    .replace(/([^0-9])([.,])/g, "$1 $2 ")
    .replace(/([.,])([^0-9])/g, " $1 $2")
    .replace(/([0-9])(-)/g, "$1 $2 ");
  return wordsOf(line);
}
