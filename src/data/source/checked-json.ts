// What JSON.parse takes in silence and a row must not have: half a surrogate pair, which is no character and would
// become U+FFFD; a key that an object has twice, of which all values but the last would be lost; and nesting so deep
// that a row can be neither sent to a thread nor rendered.

import { scanJson } from "../json-scan.ts";

/** An escape that writes half a pair, or looks like it. */
const SURROGATE_ESCAPE = /\\u[dD][89a-fA-F]/;
const ESCAPE_LENGTH = 6;
/** The upper six bits of either half. */
const [HIGH, LOW] = [0xd800 >> 10, 0xdc00 >> 10];
const [QUOTE, BACKSLASH, COLON] = [0x22, 0x5c, 0x3a];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/** Lists and objects within one another that a row may have, the row itself included. */
export const MOST_LEVELS = 256;

/** What is wrong with a value whose text opens its list or object number MOST_LEVELS + 1, or null. */
export function nestingProblem(text: string): { at: number; reason: string } | null {
  const { tooDeep } = measured(text, MOST_LEVELS);
  return tooDeep === null ? null : { at: tooDeep, reason: nestedTooDeep };
}

const nestedTooDeep = `is nested deeper than ${MOST_LEVELS} levels`;

/**
 * Why a value cannot be a row or hold one, and at which offset of its text that is, or null. `text` is what it was
 * parsed from; `around` are the levels of it that no row has.
 */
export function jsonProblem(value: unknown, text: string, around = 0): { at: number; reason: string } | null {
  const { colons, tooDeep } = measured(text, MOST_LEVELS + around);
  if (tooDeep !== null) return { at: tooDeep, reason: nestedTooDeep };
  const mayHaveHalf = text.includes("\\u") && SURROGATE_ESCAPE.test(text);
  const { keys, half } = walk(value, mayHaveHalf);
  if (half !== null) {
    return {
      at: halfPlace(text),
      reason: `a string has half of a surrogate pair (${half}), which is no character`,
    };
  }
  if (keys === colons) return null;
  const twice = scanJson(text).twice;
  if (twice === null) return null;
  const key = JSON.stringify(twice.key.length > 60 ? `${twice.key.slice(0, 60)}…` : twice.key);
  return { at: twice.at, reason: `an object has the key ${key} twice` };
}

/** The first half of a surrogate pair without the other in a value's strings and keys, as JSON escapes it, or null. */
export function halfSurrogate(value: unknown): string | null {
  return walk(value, true).half;
}

/** Counts the keys of all objects in a value, and looks for half a pair where there may be one. */
function walk(value: unknown, mayHaveHalf: boolean): { keys: number; half: string | null } {
  let [keys, half] = [0, null as string | null];
  const look = (text: string): void => {
    if (half === null && !text.isWellFormed()) half = halfOf(text);
  };
  const open: unknown[] = [value];
  while (open.length > 0) {
    const next = open.pop();
    if (typeof next === "string") {
      if (mayHaveHalf) look(next);
    } else if (Array.isArray(next)) {
      for (const element of next) if (mayHaveHalf || typeof element === "object") open.push(element);
    } else if (typeof next === "object" && next !== null) {
      for (const key of Object.keys(next)) {
        keys++;
        if (mayHaveHalf) look(key);
        const member = (next as Record<string, unknown>)[key];
        if (mayHaveHalf || typeof member === "object") open.push(member);
      }
    }
  }
  return { keys, half };
}

function halfOf(text: string): string {
  const half = /[\ud800-\udfff]/u.exec(text)![0];
  return `\\u${half.charCodeAt(0).toString(16)}`;
}

/** Where a text first escapes half a pair without the other. */
function halfPlace(text: string): number {
  let high = -1;
  for (const { 1: digits, index } of text.matchAll(/\\(?:u([0-9a-fA-F]{4})|[\s\S])/g)) {
    const kind = digits === undefined ? 0 : Number.parseInt(digits, 16) >> 10;
    const isPair = kind === LOW && high >= 0 && index === high + ESCAPE_LENGTH;
    if (high >= 0 && !isPair) return high;
    if (kind === LOW && !isPair) return index;
    high = kind === HIGH ? index : -1;
  }
  return Math.max(0, high);
}

/** Colons outside strings, one per key, and the offset where a text first opens more than `levels` levels, or null. */
function measured(text: string, levels: number): { colons: number; tooDeep: number | null } {
  let [colons, depth] = [0, 0];
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === COLON) colons++;
    else if (code === OPEN_OBJECT || code === OPEN_LIST) {
      if (++depth > levels) return { colons, tooDeep: at };
    } else if (code === CLOSE_OBJECT || code === CLOSE_LIST) depth--;
    if (code !== QUOTE) continue;
    do at = text.indexOf('"', at + 1);
    while (at >= 0 && isEscaped(text, at));
    if (at < 0) break;
  }
  return { colons, tooDeep: null };
}

function isEscaped(text: string, at: number): boolean {
  let before = at - 1;
  while (text.charCodeAt(before) === BACKSLASH) before--;
  return (at - before) % 2 === 0;
}
