// Normalizers: what a tokenizer does to a text before it cuts it.

import type { AlignedText } from "./aligned-text.ts";
import { alignedBytes } from "./byte-level.ts";
import { type NormalForm, normalForm } from "./normal-forms.ts";
import { flagOf, flattened, type Part, partOf, patternOf, textOf, unsupported } from "./part.ts";
import { findMatches } from "./split.ts";
import { MARKS_SINCE_9, MARKS_UNTIL_9, spaceAfter, spaceBefore } from "./unicode.ts";

export type Normalizer = (text: AlignedText) => AlignedText;

/** The normalizer of a tokenizer.json; null where it has none. Throws an Error that names what is not supported. */
export function normalizerOf(value: unknown): Normalizer | null {
  const steps = flattened(partOf(value, "normalizer"), "normalizers", "normalizer").map(step);
  if (steps.length === 0) return null;
  return (text) => steps.reduce((done, one) => one(done), text);
}

function step(part: Part): Normalizer {
  switch (part.type) {
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return (text) => normalForm(text, part.type as NormalForm);
    case "Prepend": {
      const prefix = textOf(part, "prepend");
      return (text) => text.prepend(prefix);
    }
    case "Replace":
      return replace(patternOf(part), textOf(part, "content"), part.pattern);
    case "Strip":
      return strip(flagOf(part, "strip_left", true), flagOf(part, "strip_right", true));
    case "StripAccents": {
      const marks = new RegExp(`[[[\\p{M}]--[${MARKS_SINCE_9}]]${MARKS_UNTIL_9}]`, "gv");
      return (text) => text.replace(findMatches(marks, text.text), "");
    }
    case "Lowercase":
      return lowercase;
    case "ByteLevel":
      return alignedBytes;
    default:
      throw unsupported("normalizer", part);
  }
}

function replace(expression: RegExp, content: string, pattern: unknown): Normalizer {
  const plain = (pattern as { String?: unknown }).String;
  if (typeof plain === "string" && plain.length === 1 && content.length === 1) {
    return (text) => (text.text.includes(plain) ? text.withText(text.text.replaceAll(plain, content)) : text);
  }
  return (text) => text.replace(findMatches(expression, text.text), content);
}

function strip(left: boolean, right: boolean): Normalizer {
  return (text) => {
    const begin = left ? spaceAfter(text.text, 0) : 0;
    return text.slice(begin, right ? spaceBefore(text.text, text.text.length, begin) : text.text.length);
  };
}

/** Character by character, as Rust does it there: a final sigma is like any other. */
function lowercase(text: AlignedText): AlignedText {
  if (text.text === text.text.toLowerCase()) return text;
  const characters: string[] = [];
  const changes: number[] = [];
  for (const character of text.text) {
    Array.from(character.toLowerCase()).forEach((lower, i) => {
      characters.push(lower);
      changes.push(i === 0 ? 0 : 1);
    });
  }
  return text.transform(characters, changes);
}
