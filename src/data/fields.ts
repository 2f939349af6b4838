// Fields of a row, checked by kind: what the readers of rows have in common.

import { NeftuneError } from "../errors.ts";
import { nestingProblem } from "./source/checked-json.ts";

export type Fields = Readonly<Record<string, unknown>>;

/** Says in one sentence what is wrong with a row; whoever knows its file and line puts them in front. */
export class RowProblem extends NeftuneError {
  constructor(reason: string, options?: ErrorOptions) {
    super("row", reason, options);
  }
}

export function isObject(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A field that is there: null counts as left out, as in files made from tables. */
export function has(fields: Fields, name: string): boolean {
  return Object.hasOwn(fields, name) && fields[name] !== null && fields[name] !== undefined;
}

export function stringField(fields: Fields, name: string): string {
  const value = fields[name];
  if (typeof value !== "string") {
    throw new RowProblem(`field "${name}": expected a string, got ${kindOf(value)}`);
  }
  return value;
}

/** A list, or null where the field is absent or empty. Columns of tables may hold it as JSON text. */
export function listField(fields: Fields, name: string, of: string): unknown[] | null {
  if (!has(fields, name) || fields[name] === "") return null;
  const value = parsedText(fields[name]);
  if (!Array.isArray(value)) {
    throw new RowProblem(`field "${name}": expected a list of ${of}, got ${kindOf(fields[name])}`);
  }
  return value.length === 0 ? null : value;
}

/** What a text says as JSON; other values, and texts that are not JSON, as they are. */
export function parsedText(value: unknown): unknown {
  if (typeof value !== "string") return value;
  let parsed: unknown;
  try {
    parsed = JSON.parse(value);
  } catch {
    return value;
  }
  const problem = nestingProblem(value);
  if (problem !== null) throw new RowProblem(`JSON in a text ${problem.reason}`);
  return parsed;
}

/** A value as messages name it. */
export function kindOf(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "an object";
  return typeof value === "string"
    ? `the string ${JSON.stringify(clipped(value))}`
    : `the ${typeof value} ${value}`;
}

export function clipped(text: string): string {
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}
