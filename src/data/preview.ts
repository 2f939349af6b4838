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
  const parts: PreviewPart[] = [];
  let shown = "";
  for (let begin = 0; begin < ids.length; ) {
    let end = begin + 1;
    while (end < ids.length && isTrained(end) === isTrained(begin)) end++;
    // as a continuation: a token may be written otherwise at the start of a text than inside it
    const text = tokenizer?.decode(ids.subarray(0, end)) ?? ids.subarray(0, end).join(" ");
    parts.push({ text: text.slice(shown.length), trained: isTrained(begin) });
    shown = text;
    begin = end;
  }
  return parts;
}
