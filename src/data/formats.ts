// What a row is: which of the formats of instruction data, and whether its fields are what that format says.

import { NeftuneError } from "../errors.ts";
import { IGNORE } from "./sample.ts";

export type Role = "system" | "user" | "assistant";

export interface Message {
  role: Role;
  content: string;
}

/** A row, checked. What a training row would teach is null where a row for generation leaves it out. */
export type Row =
  | { format: "alpaca"; instruction: string; input: string; output: string | null }
  | { format: "prompt-completion"; prompt: string; completion: string | null }
  | { format: "messages"; messages: Message[] }
  | { format: "text"; text: string }
  | { format: "tokens"; inputIds: Int32Array; labels: Int32Array | null };

/** Says in one sentence what is wrong with a row; whoever knows its file and line puts them in front. */
export class RowProblem extends NeftuneError {
  constructor(reason: string, options?: ErrorOptions) {
    super("row", reason, options);
  }
}

export interface RowRules {
  /** Ids and labels have to lie below it. */
  vocabSize: number;
  /** Rows are prompts: what they would teach may be absent. */
  forGeneration?: boolean;
}

type Fields = Record<string, unknown>;

const SHAREGPT_ROLES: Readonly<Record<string, Role>> = {
  human: "user",
  user: "user",
  gpt: "assistant",
  assistant: "assistant",
  system: "system",
};
const ROLES: Readonly<Record<string, Role>> = { system: "system", user: "user", assistant: "assistant" };
const FORMATS = "instruction and output; prompt and completion; messages; conversations; text; or input_ids";

/** Every field that a format or a command reads. */
export const ROW_FIELDS = [
  ...["input_ids", "labels", "messages", "conversations", "instruction", "input", "output"],
  ...["prompt", "completion", "text", "dataset", "generator"],
] as const;

/** `--columns`: what fields are called in the data, by the names that formats know. */
export type ColumnNames = Readonly<Record<string, string>>;

/** A row with its columns under the names that formats know; the others stay. Throws RowProblem where one is missing. */
export function renamed(value: unknown, columns: ColumnNames): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const fields = value as Fields;
  const taken = new Set(Object.values(columns));
  const row: Fields = Object.fromEntries(Object.entries(fields).filter(([name]) => !taken.has(name)));
  for (const [field, column] of Object.entries(columns)) {
    if (!Object.hasOwn(fields, column)) {
      const got = Object.keys(fields).slice(0, 8).join(", ");
      throw new RowProblem(
        `--columns ${field}=${column}: the row has no ${column}; it has ${got || "no fields"}`,
      );
    }
    row[field] = fields[column];
  }
  return row;
}

/** True where an object has the fields of some format, as opposed to holding an array of rows. */
export function isRowShaped(value: unknown): boolean {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  return ["input_ids", "messages", "conversations", "instruction", "prompt", "text"].some((field) =>
    has(value as Fields, field),
  );
}

/** Recognises and checks a row as it was parsed from JSON. Throws RowProblem. */
export function parseRow(value: unknown, rules: RowRules): Row {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new RowProblem(`expected an object, got ${kindOf(value)}`);
  }
  const fields = value as Fields;
  const target = (name: string): string | null => {
    if (has(fields, name)) return stringField(fields, name);
    if (rules.forGeneration === true) return null;
    throw new RowProblem(`field "${name}" is missing`);
  };
  if (has(fields, "input_ids")) return tokensRow(fields, rules.vocabSize);
  if (has(fields, "messages")) return messagesRow(fields.messages, "messages", "role", "content", ROLES);
  if (has(fields, "conversations")) {
    return messagesRow(fields.conversations, "conversations", "from", "value", SHAREGPT_ROLES);
  }
  if (has(fields, "instruction")) {
    return {
      format: "alpaca",
      instruction: stringField(fields, "instruction"),
      input: has(fields, "input") ? stringField(fields, "input") : "",
      output: target("output"),
    };
  }
  if (has(fields, "prompt")) {
    const prompt = stringField(fields, "prompt");
    return { format: "prompt-completion", prompt, completion: target("completion") };
  }
  if (has(fields, "text")) return { format: "text", text: stringField(fields, "text") };
  const keys = Object.keys(fields).slice(0, 8).join(", ");
  throw new RowProblem(`is of no known format; expected ${FORMATS}, got ${keys === "" ? "no fields" : keys}`);
}

/** A field that is there: null counts as left out, as in files made from tables. */
function has(fields: Fields, name: string): boolean {
  return Object.hasOwn(fields, name) && fields[name] !== null;
}

function stringField(fields: Fields, name: string): string {
  const value = fields[name];
  if (typeof value !== "string") {
    throw new RowProblem(`field "${name}": expected a string, got ${kindOf(value)}`);
  }
  return value;
}

function messagesRow(
  value: unknown,
  field: string,
  roleField: string,
  contentField: string,
  roles: Readonly<Record<string, Role>>,
): Row {
  if (!Array.isArray(value)) {
    throw new RowProblem(`field "${field}": expected a list of messages, got ${kindOf(value)}`);
  }
  if (value.length === 0) throw new RowProblem(`field "${field}": the conversation is empty`);
  const messages = value.map((message: unknown, i): Message => {
    const where = `${field}[${i}]`;
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      throw new RowProblem(`${where}: expected an object, got ${kindOf(message)}`);
    }
    const { [roleField]: role, [contentField]: content } = message as Fields;
    if (typeof role !== "string" || !Object.hasOwn(roles, role)) {
      const got = typeof role === "string" ? JSON.stringify(clipped(role)) : kindOf(role);
      throw new RowProblem(`${where}.${roleField}: expected ${Object.keys(roles).join(", ")}, got ${got}`);
    }
    if (typeof content !== "string") {
      throw new RowProblem(`${where}.${contentField}: expected a string, got ${kindOf(content)}`);
    }
    return { role: roles[role]!, content };
  });
  return { format: "messages", messages };
}

function tokensRow(fields: Fields, vocabSize: number): Row {
  const inputIds = idList(fields.input_ids, "input_ids", 0, vocabSize);
  if (inputIds.length === 0) throw new RowProblem('field "input_ids": the list is empty');
  if (!has(fields, "labels")) return { format: "tokens", inputIds, labels: null };
  const labels = idList(fields.labels, "labels", IGNORE, vocabSize);
  if (labels.length !== inputIds.length) {
    throw new RowProblem(
      `field "labels": expected as many as input_ids, ${inputIds.length}, got ${labels.length}`,
    );
  }
  return { format: "tokens", inputIds, labels };
}

/** A list of ids below `vocabSize`; `least` is 0, or IGNORE where that one value below 0 is allowed too. */
function idList(value: unknown, field: string, least: number, vocabSize: number): Int32Array {
  if (!Array.isArray(value)) {
    throw new RowProblem(`field "${field}": expected a list of integers, got ${kindOf(value)}`);
  }
  const ids = new Int32Array(value.length);
  for (let i = 0; i < ids.length; i++) {
    const id: unknown = value[i];
    const valid =
      typeof id === "number" && Number.isInteger(id) && id < vocabSize && (id >= 0 || id === least);
    if (!valid) {
      const range = `an integer from 0 to ${vocabSize - 1}${least < 0 ? ` or ${least}` : ""}`;
      throw new RowProblem(
        `${field}[${i}]: expected ${range}, got ${typeof id === "number" ? id : kindOf(id)}`,
      );
    }
    ids[i] = id;
  }
  return ids;
}

function kindOf(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "an object";
  return typeof value === "string"
    ? `the string ${JSON.stringify(clipped(value))}`
    : `the ${typeof value} ${value}`;
}

function clipped(text: string): string {
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}
