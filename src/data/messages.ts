// Conversations as data sets write them, as chat templates take them: role and content, whose turns are trained, and
// the fields that templates read beside (tool_calls, reasoning_content).

import { clipped, type Fields, has, isObject, kindOf, parsedText, RowProblem } from "./fields.ts";

export type Role = "system" | "user" | "assistant" | "tool";

export interface Message {
  role: Role;
  /** Null or absent where a turn has only tool calls or reasoning, as the row has it. */
  content?: string | null;
  /** True where the turn's weight is 0: it is not a target. */
  untrained?: true;
  /** The message's other fields, which templates get as they are. */
  extra?: Fields;
}

/** What messages are called in a field, and what their roles mean. */
interface Dialect {
  roleField: string;
  contentField: string;
  roles: Readonly<Record<string, Role | "function_call">>;
}

export const CHAT: Dialect = {
  roleField: "role",
  contentField: "content",
  roles: { system: "system", user: "user", assistant: "assistant", tool: "tool" },
};
/** ShareGPT's names, and LLaMA-Factory's for tools. */
export const SHAREGPT: Dialect = {
  roleField: "from",
  contentField: "value",
  roles: {
    human: "user",
    user: "user",
    gpt: "assistant",
    assistant: "assistant",
    system: "system",
    tool: "tool",
    observation: "tool",
    function_call: "function_call",
  },
};

/** Fields that would change what is trained in ways that no part of this program follows. */
const REFUSED = {
  function_call: "write it as tool_calls",
  train_detail: "weights of parts of a turn are not supported",
} as const;
/** Names of a turn's reasoning, the first as templates read it (Transformers takes the others for it, too). */
const REASONING = ["reasoning_content", "thinking", "reasoning"] as const;
/** A turn may have no content where it has one of these. */
const INSTEAD_OF_CONTENT = ["tool_calls", "reasoning_content"] as const;

/** A list of messages in `field`. Throws RowProblem. */
export function readMessages(value: unknown, field: string, dialect: Dialect): Message[] {
  const list = parsedText(value);
  if (!Array.isArray(list)) {
    throw new RowProblem(`field "${field}": expected a list of messages, got ${kindOf(value)}`);
  }
  if (list.length === 0) throw new RowProblem(`field "${field}": the conversation is empty`);
  return list.map((message: unknown, i) => readMessage(message, `${field}[${i}]`, dialect));
}

function readMessage(message: unknown, where: string, dialect: Dialect): Message {
  const { roleField, contentField, roles } = dialect;
  if (!isObject(message)) throw new RowProblem(`${where}: expected an object, got ${kindOf(message)}`);
  const name = message[roleField];
  if (typeof name !== "string" || !Object.hasOwn(roles, name)) {
    const got = typeof name === "string" ? JSON.stringify(clipped(name)) : kindOf(name);
    throw new RowProblem(`${where}.${roleField}: expected ${Object.keys(roles).join(", ")}, got ${got}`);
  }
  for (const [field, remedy] of Object.entries(REFUSED)) {
    if (has(message, field)) throw new RowProblem(`${where}.${field} cannot be used; ${remedy}`);
  }
  const role = roles[name]!;
  // ms-swift's name for `train`; as a number it is somebody's measure
  const loss = typeof message.loss === "boolean" ? ["loss"] : [];
  const isUntrained =
    isOff(message, "weight", where) || isOff(message, "train", where) || message.loss === false;
  const untrained = isUntrained ? { untrained: true as const } : {};
  if (role === "function_call") {
    const text = contentOf(message, `${where}.${contentField}`, contentField);
    const extra = { tool_calls: calledFunctions(text, `${where}.${contentField}`) };
    return { role: "assistant", content: "", ...untrained, extra };
  }
  const extra = extraFields(message, where, [roleField, contentField, "weight", "train", ...loss]);
  const mayLackContent = role === "assistant" && INSTEAD_OF_CONTENT.some((field) => has(extra, field));
  const content =
    mayLackContent && !has(message, contentField)
      ? Object.hasOwn(message, contentField)
        ? { content: null }
        : {}
      : { content: contentOf(message, `${where}.${contentField}`, contentField) };
  return { role, ...content, ...untrained, ...(Object.keys(extra).length > 0 ? { extra } : {}) };
}

/** Text, or a list of parts of type text, joined. */
export function contentOf(fields: Fields, where: string, name: string): string {
  const content = fields[name];
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) throw new RowProblem(`${where}: expected a string, got ${kindOf(content)}`);
  return content
    .map((part: unknown, i) => {
      const { type, text } = isObject(part) ? part : { type: part, text: null };
      if (type === "text" && typeof text === "string") return text;
      const got = type === "text" ? `a text that is ${kindOf(text)}` : kindOf(type);
      throw new RowProblem(`${where}[${i}]: expected a part of type text, got ${got}`);
    })
    .join("");
}

/** True where `weight` (OpenAI, Mistral) is 0 or `train` (axolotl) false: the turn is not a target. */
function isOff(message: Fields, name: "weight" | "train", where: string): boolean {
  if (!has(message, name)) return false;
  const value = message[name];
  const isBoolean = name === "train" && typeof value === "boolean";
  if (value === 1 || value === 0 || isBoolean) return !value;
  const expected = name === "weight" ? "0 or 1" : "true or false";
  throw new RowProblem(`${where}.${name}: expected ${expected}, got ${kindOf(value)}`);
}

/** A message's fields beside `known`; nulls, which tables put where a message has none, are left out. */
function extraFields(message: Fields, where: string, known: readonly string[]): Fields {
  const extra: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(message)) {
    if (!known.includes(name) && value !== null && value !== undefined) extra[name] = value;
  }
  const reasoning = REASONING.find((name) => typeof extra[name] === "string");
  if (reasoning !== undefined) {
    const text = extra[reasoning];
    for (const name of REASONING) delete extra[name];
    extra.reasoning_content = text;
  }
  if (!has(extra, "tool_calls")) return extra;
  const calls = extra.tool_calls === "" ? [] : parsedText(extra.tool_calls);
  if (!Array.isArray(calls)) {
    throw new RowProblem(`${where}.tool_calls: expected a list, got ${kindOf(extra.tool_calls)}`);
  }
  if (calls.length === 0) delete extra.tool_calls;
  else extra.tool_calls = calls;
  return extra;
}

/** LLaMA-Factory's function_call: the JSON text of one call, or of a list of them. */
function calledFunctions(text: string, where: string): unknown[] {
  const value = parsedText(text);
  const calls: unknown[] = Array.isArray(value) ? value : [value];
  if (calls.length === 0) throw new RowProblem(`${where}: the list of calls is empty`);
  return calls.map((call) => {
    if (!isObject(call) || typeof call.name !== "string") {
      throw new RowProblem(
        `${where}: expected a function call as JSON ({"name", "arguments"}), got ${kindOf(call)}`,
      );
    }
    return { type: "function", function: { name: call.name, arguments: call.arguments ?? {} } };
  });
}
