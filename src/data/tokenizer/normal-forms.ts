// Unicode's normal forms with the place of every character, as in Hugging Face's tokenizers: its library says for each
// character of the result how it changes the text (Unicode Standard Annex #15, by the tables of Unicode 9). Decomposition,
// composition and the order of combining marks come from JavaScript, which knows newer tables.

import type { AlignedText } from "./aligned-text.ts";
import { NORMALIZED_SINCE_9 } from "./unicode.ts";

export type NormalForm = "NFC" | "NFD" | "NFKC" | "NFKD";

/** A character and how it changes the text: see AlignedText.transform. */
interface Changed {
  character: string;
  change: number;
}

const NEWER = new RegExp(`[${NORMALIZED_SINCE_9}]`, "u");

export function normalForm(text: AlignedText, form: NormalForm): AlignedText {
  if (text.text.normalize(form) === text.text && !NEWER.test(text.text)) return text;
  const decomposed = decompose(text.text, form === "NFC" || form === "NFD" ? "NFD" : "NFKD");
  const result = form === "NFC" || form === "NFKC" ? compose(decomposed) : decomposed;
  return text.transform(
    result.map(({ character }) => character),
    result.map(({ change }) => change),
  );
}

function decompose(text: string, form: "NFD" | "NFKD"): Changed[] {
  const out: Changed[] = [];
  let sorted = 0; // up to here, marks are in order
  const add = (character: string, change: number): void => {
    let at = out.length;
    if (isMark(character)) {
      while (at > sorted && goesBefore(character, out[at - 1]!.character)) at--;
      out.splice(at, 0, { character, change });
    } else {
      out.push({ character, change });
      sorted = out.length;
    }
  };
  for (const character of text) {
    if (character < "\u0080" || NEWER.test(character)) {
      add(character, 0);
      continue;
    }
    let change = 0;
    for (const part of character.normalize(form)) {
      add(part, change);
      change = 1;
    }
  }
  return out;
}

function compose(decomposed: readonly Changed[]): Changed[] {
  const out: Changed[] = [];
  let starter: Changed | null = null; // the last of `out` that marks behind it can join
  let before: string | null = null; // the mark between it and the next character, which may keep that from joining
  for (const { character, change } of decomposed) {
    const mark = isMark(character);
    const joins = starter !== null && (before === null || (mark && goesBefore(before, character)));
    const composed: string | null = joins ? composite(starter!.character, character) : null;
    if (composed !== null) {
      starter!.character = composed;
      starter!.change += change - 1;
      continue;
    }
    const next = { character, change };
    out.push(next);
    if (!mark) {
      starter = next;
      before = null;
    } else if (starter !== null) before = character;
  }
  return out;
}

const composites = new Map<string, string | null>();

/** The one character that two compose to, or null. */
function composite(first: string, second: string): string | null {
  if (first < "\u0080" && second < "\u0300") return null;
  const pair = first + second;
  let composed = composites.get(pair);
  if (composed === undefined) {
    const together = pair.normalize("NFC");
    const isOne = together.length === (together.codePointAt(0)! > 0xffff ? 2 : 1);
    composed = isOne && !NEWER.test(together) && !NEWER.test(pair) ? together : null;
    if (composites.size > 1 << 16) composites.clear();
    composites.set(pair, composed);
  }
  return composed;
}

const marks = new Map<string, boolean>();

/** True where a character's combining class is not 0: it changes places with a mark of the highest or the lowest one. */
function isMark(character: string): boolean {
  if (character < "\u0300") return false;
  let known = marks.get(character);
  if (known === undefined) {
    known = !NEWER.test(character) && (goesBefore(character, "\u0345") || goesBefore("\u0334", character));
    if (marks.size > 1 << 16) marks.clear();
    marks.set(character, known);
  }
  return known;
}

/** True where the combining class of mark `a` is below that of mark `b`: written the other way round, they swap. */
function goesBefore(a: string, b: string): boolean {
  return a !== b && (b + a).normalize("NFD") === a + b;
}
