// One part of a tokenizer.json: a normalizer, a pre-tokenizer or a decoder, with its fields.

import { literal, oniguruma } from "./oniguruma.ts";

export type Part = Record<string, unknown>;

/** A part, where there is one. Throws an Error that names it where it is none. */
export function partOf(value: unknown, kind: string): Part | null {
  if (value === null || value === undefined) return null;
  if (typeof value === "object" && typeof (value as Part).type === "string") return value as Part;
  throw new Error(`a ${kind} has no type`);
}

/** The parts of a Sequence's list, each Sequence in it by its own parts. */
export function flattened(part: Part | null, list: string, kind: string): Part[] {
  if (part === null) return [];
  if (part.type !== "Sequence") return [part];
  const parts = part[list];
  if (!Array.isArray(parts)) throw new Error(`${kind} Sequence: ${list} is not a list`);
  return parts.flatMap((one) => flattened(partOf(one, kind), list, kind));
}

export function unsupported(kind: string, part: Part): Error {
  return new Error(`${kind} ${String(part.type).slice(0, 100)} is not supported`);
}

/** A field of text. */
export function textOf(part: Part, field: string): string {
  const value = part[field];
  if (typeof value !== "string") throw new Error(`${String(part.type)}: ${field} is not a string`);
  return value;
}

/** A field that says yes or no, or what it is without it. */
export function flagOf(part: Part, field: string, otherwise: boolean): boolean {
  const value = part[field];
  return typeof value === "boolean" ? value : otherwise;
}

/** The expression of `pattern`: {"String": …} or {"Regex": …}. */
export function patternOf(part: Part): RegExp {
  const pattern = part.pattern as { String?: unknown; Regex?: unknown } | string | null | undefined;
  if (typeof pattern === "string") return literal(pattern);
  if (typeof pattern?.String === "string") return literal(pattern.String);
  if (typeof pattern?.Regex === "string") return oniguruma(pattern.Regex);
  throw new Error(`${String(part.type)}: pattern has neither String nor Regex`);
}
