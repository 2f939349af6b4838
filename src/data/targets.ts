// Which tokens of a text are learned: every one that holds a character of an answer, also where the answer's first
// character shares a token with the prompt's last (Transformers' assistant mask and TRL do the same).

import { IGNORE } from "./sample.ts";

/** The tokens of a text. Token i holds the characters [starts[i], ends[i]), in UTF-16 units of the text. */
export interface Encoding {
  ids: Int32Array; // [tokens]
  starts: Int32Array; // [tokens]
  ends: Int32Array; // [tokens]
}

/** An answer in a text, in UTF-16 units: its own characters are [begin, end), those that end its turn [end, stop). */
export interface AnswerSpan {
  begin: number;
  end: number;
  stop: number;
}

/** True where token i holds a character of [begin, end). A token without width counts as the character behind it. */
export function holdsAny({ starts, ends }: Encoding, i: number, begin: number, end: number): boolean {
  const start = starts[i]!;
  return begin < end && start < end && Math.max(ends[i]!, start + 1) > begin;
}

/** Labels of a text: its ids where an answer or the end of its turn is, IGNORE elsewhere. int32 [tokens] */
export function targetLabels(encoding: Encoding, answers: readonly AnswerSpan[]): Int32Array {
  const { ids } = encoding;
  const labels = new Int32Array(ids.length).fill(IGNORE);
  for (const { begin, stop } of answers) {
    for (let i = 0; i < ids.length; i++) if (holdsAny(encoding, i, begin, stop)) labels[i] = ids[i]!;
  }
  return labels;
}

/**
 * The first token from `from` that holds a character of an answer itself, Infinity where none does: only ends would
 * be learned.
 */
export function firstAnswerToken(encoding: Encoding, answers: readonly AnswerSpan[], from = 0): number {
  let first = Number.POSITIVE_INFINITY;
  for (const { begin, end } of answers) {
    for (let i = from; i < encoding.ids.length && i < first; i++) {
      if (holdsAny(encoding, i, begin, end)) first = i;
    }
  }
  return first;
}
