// What of a sample's text is trained: for `preview`.

import { IGNORE, type Sample } from "./sample.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A stretch of a sample's tokens, all trained or none. */
export interface PreviewPart {
  text: string;
  trained: boolean;
}

/**
 * A sample's text, special tokens shown, cut where training begins and ends; without a tokenizer, its ids. The first token
 * is never trained.
 */
export function previewParts(
  tokenizer: Tokenizer | null,
  { ids, labels }: Pick<Sample, "ids" | "labels">,
): PreviewPart[] {
  const isTrained = (i: number): boolean => i > 0 && labels[i] !== IGNORE;
  const textOf = (count: number): string =>
    tokenizer?.decode(ids.subarray(0, count)) ?? ids.subarray(0, count).join(" ");
  const whole = textOf(ids.length);
  const parts: PreviewPart[] = [];
  let shown = 0;
  for (let begin = 0; begin < ids.length; ) {
    let end = begin + 1;
    while (end < ids.length && isTrained(end) === isTrained(begin)) end++;
    // as a continuation: a token may be written otherwise at the start of a text than inside it
    const upTo = Math.max(shown, agreed(textOf(end), whole));
    parts.push({ text: whole.slice(shown, upTo), trained: isTrained(begin) });
    shown = upTo;
    begin = end;
  }
  return parts;
}

/** How far a text agrees with the whole: not where it ends amid a character's bytes. */
function agreed(text: string, whole: string): number {
  let length = 0;
  while (length < text.length && text[length] === whole[length]) length++;
  return length < whole.length && /[\ud800-\udbff]/.test(whole[length - 1] ?? "") ? length - 1 : length;
}
