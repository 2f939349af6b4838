// Cutting a text at the matches of a pattern, as Hugging Face's tokenizers does it.

import type { Pieces } from "./aligned-text.ts";

/** What becomes of the matches. */
export type Behavior = "Isolated" | "Removed" | "MergedWithPrevious" | "MergedWithNext" | "Contiguous";

/** Characters of a text whose matches are all made as strings. */
const MOST_QUICK = 1 << 16;

/** Matches of a global expression in a text. One without width right behind another is none (as in Rust's onig). */
export function findMatches(expression: RegExp, text: string): Pieces {
  const matches: Pieces = [];
  eachMatch(expression, text, (begin, end) => matches.push(begin, end));
  return matches;
}

function eachMatch(expression: RegExp, text: string, take: (begin: number, end: number) => void): void {
  let last = -1;
  expression.lastIndex = 0;
  for (let match = expression.exec(text); match !== null; match = expression.exec(text)) {
    const begin = match.index;
    const end = begin + match[0].length;
    if (begin !== end || begin !== last) {
      take(begin, end);
      last = end;
    }
    if (begin === end) expression.lastIndex += (text.codePointAt(end) ?? 0) > 0xffff ? 2 : 1;
  }
}

/** The pieces of a text that is cut at each match of a global expression, or with `invert` at what lies between them. */
export function splitAt(expression: RegExp, text: string, behavior: Behavior, invert: boolean): Pieces {
  return behavior === "Isolated"
    ? isolated(expression, text)
    : split(text, findMatches(expression, text), behavior, invert);
}

/** Each match and each stretch between two; directly, as a text may have millions of them. */
function isolated(expression: RegExp, text: string): Pieces {
  if (text.length <= MOST_QUICK) {
    // most expressions leave nothing between their matches; this is quicker than asking for each place
    const words = text.match(expression) ?? [];
    const pieces: Pieces = [];
    let end = 0;
    for (const word of words) {
      if (word === "") continue;
      pieces.push(end, end + word.length);
      end += word.length;
    }
    if (end === text.length) return pieces;
  }
  const pieces: Pieces = [];
  let done = 0;
  const add = (end: number): void => {
    if (done < end) pieces.push(done, end);
    done = end;
  };
  eachMatch(expression, text, (begin, end) => {
    add(begin);
    add(end);
  });
  add(text.length);
  return pieces;
}

function split(
  text: string,
  matches: Pieces,
  behavior: Exclude<Behavior, "Isolated">,
  invert: boolean,
): Pieces {
  if (text === "") return [];
  const parts: Pieces = [];
  const isMatch: boolean[] = [];
  let done = 0;
  for (let k = 0; k < matches.length; k += 2) {
    if (done !== matches[k]!) {
      parts.push(done, matches[k]!);
      isMatch.push(invert);
    }
    done = matches[k + 1]!;
    parts.push(matches[k]!, done);
    isMatch.push(!invert);
  }
  if (done !== text.length) {
    parts.push(done, text.length);
    isMatch.push(invert);
  }
  return merged(parts, isMatch, behavior).filter((_, i, all) => all[i & ~1] !== all[i | 1]);
}

function merged(parts: Pieces, isMatch: readonly boolean[], behavior: Exclude<Behavior, "Isolated">): Pieces {
  if (behavior === "Removed") return parts.filter((_, i) => !isMatch[i >> 1]);
  const out: Pieces = [];
  if (behavior === "MergedWithNext") {
    // from the end: a match joins the part behind it, unless that is a match that joined one itself
    let before = false;
    for (let k = isMatch.length - 1; k >= 0; k--) {
      if (isMatch[k] && !before && out.length > 0) out[out.length - 1] = parts[2 * k]!;
      else out.push(parts[2 * k + 1]!, parts[2 * k]!);
      before = isMatch[k]!;
    }
    return out.reverse();
  }
  let before = false;
  for (let k = 0; k < isMatch.length; k++) {
    const joins = behavior === "Contiguous" ? isMatch[k] === before : isMatch[k]! && !before;
    if (joins && out.length > 0) out[out.length - 1] = parts[2 * k + 1]!;
    else out.push(parts[2 * k]!, parts[2 * k + 1]!);
    before = isMatch[k]!;
  }
  return out;
}
