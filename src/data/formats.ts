// What a row is: which of the formats of instruction data, and whether its fields are what that format says. Every field
// that changes the meaning is used or refused; what is left over is told by `unusedColumns`.

import { type Fields, has, isObject, kindOf, listField, RowProblem, stringField } from "./fields.ts";
import { CHAT, contentOf, type Message, readMessages, SHAREGPT } from "./messages.ts";
import { PACKING_FIELDS, TOKEN_FIELDS, type TokensRow, tokensRow } from "./token-rows.ts";

export { RowProblem } from "./fields.ts";
export type { Message, Role } from "./messages.ts";

/** What a row brings for its chat template beside its question and answer. */
export interface Surroundings {
  /** The words of a system turn, null for none. */
  system: string | null;
  /** Tools, as chat templates take them; null for none. */
  tools: unknown[] | null;
}

/** A row, checked. What a training row would teach is null where a row for generation leaves it out. */
export type Row =
  | ({
      format: "alpaca";
      instruction: string;
      input: string;
      output: string | null;
      /** Questions and answers before the instruction. */
      history: readonly (readonly [question: string, answer: string])[];
    } & Surroundings)
  | ({ format: "prompt-completion"; prompt: string; completion: string | null } & Surroundings)
  | {
      format: "messages";
      /** With the system turn that a field beside them brought. */
      messages: readonly Message[];
      /** How many of them ask: those before the answer that a prompt leaves out. */
      asking: number;
      tools: unknown[] | null;
    }
  | { format: "text"; text: string }
  | TokensRow;

export interface RowRules {
  /** Ids and labels have to lie below it. */
  vocabSize: number;
  /** Rows are prompts: what they would teach may be absent. */
  forGeneration?: boolean;
}

/** The fields of each format, by the one that it is recognized by, in order of precedence. */
const FIELDS_OF = {
  input_ids: TOKEN_FIELDS,
  messages: ["messages", "system", "tools"],
  conversations: ["conversations", "system", "tools"],
  instruction: ["instruction", "input", "output", "history", "system", "tools"],
  prompt: ["prompt", "completion", "system", "tools"],
  text: ["text"],
} as const;
type FormatField = keyof typeof FIELDS_OF;
const FORMAT_FIELDS = Object.keys(FIELDS_OF) as FormatField[];
const FORMATS = "instruction and output; prompt and completion; messages; conversations; text; or input_ids";

/** Every field that a format or a command reads. */
export const ROW_FIELDS: readonly string[] = [
  ...new Set([...Object.values(FIELDS_OF).flat(), "dataset", "generator"]),
];

/** What marks an answer as one not to give: KTO's labels, as TRL and LLaMA-Factory name them. */
const VERDICTS = ["label", "kto_tag"] as const;

/** Fields that no format reads and that are looked at, since rows that have them may mean something else. */
export const GUARDED_FIELDS: readonly string[] = [...VERDICTS, ...PACKING_FIELDS, "chosen"];

/** True where an object has the fields of some format, as opposed to holding an array of rows. */
export function isRowShaped(value: unknown): boolean {
  return isObject(value) && FORMAT_FIELDS.some((field) => has(value, field));
}

/** The columns of a row that its format does not read, as far as they hold something. */
export function unusedColumns(value: unknown): string[] {
  if (!isObject(value)) return [];
  const format = FORMAT_FIELDS.find((field) => has(value, field));
  if (format === undefined) return [];
  const used: readonly string[] = FIELDS_OF[format];
  return Object.keys(value).filter((name) => !used.includes(name) && has(value, name));
}

/** Recognizes and checks a row as it was parsed from JSON. Throws RowProblem. */
export function parseRow(value: unknown, rules: RowRules): Row {
  if (!isObject(value)) throw new RowProblem(`expected an object, got ${kindOf(value)}`);
  const target = (name: string): string | null => {
    if (has(value, name)) return stringField(value, name);
    if (rules.forGeneration === true) return null;
    throw new RowProblem(`field "${name}" is missing${preferenceHint(value, name)}`);
  };
  const format = FORMAT_FIELDS.find((field) => has(value, field));
  // A text or tokens alone hold no answer: there, a label is a class.
  if (rules.forGeneration !== true && format !== "text" && format !== "input_ids") expectWanted(value);
  switch (format) {
    case "input_ids":
      return tokensRow(value, rules.vocabSize);
    case "messages":
      return conversation(value, readMessages(value.messages, "messages", CHAT));
    case "conversations":
      return conversation(value, readMessages(value.conversations, "conversations", SHAREGPT));
    case "instruction":
      return {
        format: "alpaca",
        instruction: stringField(value, "instruction"),
        input: has(value, "input") ? stringField(value, "input") : "",
        output: target("output"),
        history: historyOf(value),
        ...surroundings(value),
      };
    case "prompt":
      if (typeof value.prompt !== "string" || Array.isArray(value.completion)) {
        return conversation(value, ...promptMessages(value, rules));
      }
      return {
        format: "prompt-completion",
        prompt: value.prompt,
        completion: target("completion"),
        ...surroundings(value),
      };
    case "text":
      return { format: "text", text: stringField(value, "text") };
    case undefined: {
      const keys = Object.keys(value).slice(0, 8).join(", ");
      throw new RowProblem(
        `has no known format; expected ${FORMATS}, got ${keys === "" ? "no fields" : keys}${preferenceHint(value, "messages")}`,
      );
    }
  }
}

/** A row of preferences has no answer; which field would hold the better one. */
function preferenceHint(fields: Fields, field: string): string {
  return has(fields, "chosen") ? `; --columns ${field}=chosen trains on the answers that were preferred` : "";
}

/** Refuses an answer that the row says is not to be given. */
function expectWanted(fields: Fields): void {
  const name = VERDICTS.find((field) => fields[field] === false);
  if (name === undefined) return;
  throw new RowProblem(`field "${name}": false marks an answer to avoid, not one to learn`);
}

function surroundings(fields: Fields): Surroundings {
  const system = has(fields, "system") ? contentOf(fields, 'field "system"', "system") : "";
  return { system: system === "" ? null : system, tools: listField(fields, "tools", "tools") };
}

/** A row of messages. The first `asking` of them are its prompt; default: all but an answer at the end. */
function conversation(
  fields: Fields,
  read: readonly Message[],
  asking = read.at(-1)?.role === "assistant" ? read.length - 1 : read.length,
): Row {
  const { system, tools } = surroundings(fields);
  const first = read[0];
  if (system === null || (first?.role === "system" && first.content === system)) {
    return { format: "messages", messages: read, asking, tools };
  }
  if (first?.role === "system") {
    throw new RowProblem('field "system": the conversation has a system turn of its own; leave one out');
  }
  const messages: Message[] = [{ role: "system", content: system }, ...read];
  return { format: "messages", messages, asking: asking + 1, tools };
}

/** `prompt` and `completion` as lists of messages (TRL): the completion's turns are the targets. */
function promptMessages(fields: Fields, { forGeneration }: RowRules): [Message[], number] {
  const read = (name: string, role: Message["role"]): Message[] =>
    typeof fields[name] === "string"
      ? [{ role, content: fields[name] }]
      : readMessages(fields[name], name, CHAT);
  const prompt = read("prompt", "user").map(
    (message): Message => (message.role === "assistant" ? { ...message, untrained: true } : message),
  );
  if (!has(fields, "completion")) {
    if (forGeneration === true) return [prompt, prompt.length];
    throw new RowProblem(`field "completion" is missing${preferenceHint(fields, "completion")}`);
  }
  return [[...prompt, ...read("completion", "assistant")], prompt.length];
}

/** LLaMA-Factory's history: pairs of question and answer. */
function historyOf(fields: Fields): [string, string][] {
  const pairs = listField(fields, "history", "pairs of question and answer") ?? [];
  return pairs.map((pair, i) => {
    const [question, answer, ...more] = Array.isArray(pair) ? (pair as unknown[]) : [];
    if (typeof question !== "string" || typeof answer !== "string" || more.length > 0) {
      throw new RowProblem(`history[${i}]: expected a question and an answer, got ${kindOf(pair)}`);
    }
    return [question, answer];
  });
}
