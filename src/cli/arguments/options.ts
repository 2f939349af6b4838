// The parser of a command's table of options: arguments and values of config files, read and checked.
// node:util's parseArgs splits the arguments; libraries (commander, citty, cac, stricli) were weighed and left,
// because each would still need this table for config files, `on|off` values, ranges and nearest-name refusals.

import { parseArgs } from "node:util";
import { hasDateForm } from "../../data/template-date.ts";
import { UsageError } from "../../errors.ts";
import { suggestion } from "../../nearest.ts";
import {
  accepts,
  expected,
  isInRange,
  type OptionSpec,
  type OptionTable,
  type Values,
} from "../../options/spec.ts";
import { quoted, shown } from "../terminal/text.ts";
import { insteadOf, ownValue, resolveName } from "./aliases.ts";

/** What was given, before defaults: option name → value and where it was given (for messages). */
export type Given = Map<string, { value: unknown; origin: string }>;

/** What the arguments say, unknown options and bad values refused. */
export interface Arguments {
  given: Given;
  positionals: string[];
  help: boolean;
}

/**
 * Reads arguments against a table. Without `takesPositionals` a word behind a boolean option can only be meant as
 * its value. Throws UsageError.
 */
export function parseArguments(
  args: readonly string[],
  table: OptionTable,
  takesPositionals = true,
): Arguments {
  const config: Record<string, { type: "string" | "boolean"; short?: string; multiple: true }> = {
    help: { type: "boolean", short: "h", multiple: true },
  };
  for (const [name, spec] of Object.entries(table)) {
    config[name] = { type: spec.type === "bool" ? "boolean" : "string", multiple: true };
  }
  const { tokens } = parseArgs({
    args: withOwnNames(args, table),
    options: config,
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const given: Given = new Map();
  const positionals: string[] = [];
  let help = false;
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!;
    if (token.kind === "positional") positionals.push(token.value);
    if (token.kind !== "option") continue;
    if (token.name === "help") {
      help = true;
      continue;
    }
    const written = args[token.index]!.split("=")[0]!;
    const spec = Object.hasOwn(table, token.name) ? table[token.name] : undefined;
    if (spec === undefined || token.rawName !== `--${token.name}`) {
      throw unknownOption(token.rawName, token.value ?? valueAfter(tokens, i), table);
    }
    let text = token.value;
    if (spec.type === "bool" && text === undefined) {
      // parseArgs knows no optional values: `--packing off` comes as a flag and a positional right after it.
      const next = tokens[i + 1];
      const isValue =
        next?.kind === "positional" &&
        next.index === token.index + 1 &&
        (!takesPositionals || /^(on|off|true|false)$/i.test(next.value));
      text = isValue ? next.value : "on";
      if (isValue) i++;
    } else if (text === undefined || (!token.inlineValue && /^--[a-z]/.test(text))) {
      const after = text === undefined ? "nothing" : `the option ${shown(text)}`;
      throw new UsageError(`${written} needs a value (${expected(spec)}), got ${after}`);
    }
    const value = readText(written, spec, ownValue(token.name, text));
    const earlier = given.get(token.name);
    if (spec.type === "repeated") {
      const values = (earlier?.value as string[] | undefined) ?? [];
      given.set(token.name, { value: [...values, ...(value as string[])], origin: written });
    } else {
      if (earlier !== undefined) throw givenTwice(earlier.origin, written);
      given.set(token.name, { value, origin: written });
    }
  }
  return { given, positionals, help };
}

/** The arguments with aliases of options replaced by the names that the table has. */
function withOwnNames(args: readonly string[], table: OptionTable): string[] {
  const end = args.indexOf("--");
  return args.map((arg, i) => {
    const [, name, rest] = /^--([^=]+)(.*)$/s.exec(arg) ?? [];
    if (name === undefined || (end >= 0 && i > end)) return arg;
    const own = resolveName(name, table);
    return Object.hasOwn(table, own) ? `--${own}${rest}` : arg;
  });
}

/** Two spellings of one option, or the same one twice. */
export function givenTwice(first: string, second: string): UsageError {
  return new UsageError(
    first === second
      ? `${first} was given twice; give it once`
      : `${first} and ${second} are the same option; give one of them`,
  );
}

function valueAfter(tokens: readonly { kind: string; value?: unknown }[], i: number): unknown {
  const next = tokens[i + 1];
  return next?.kind === "positional" ? next.value : undefined;
}

/** The advice for an option that only other trainers have; null if none has it. */
export function foreignOption(name: string, value: unknown, table: OptionTable): string | null {
  const advice = insteadOf(name, table);
  if (advice === null) return null;
  const isOff = typeof value === "boolean" ? !value : /^(false|off|no|none)$/i.test(String(value ?? ""));
  return isOff ? "leave it out" : advice;
}

function unknownOption(rawName: string, value: unknown, table: OptionTable): UsageError {
  const name = rawName.replace(/^-+/, "");
  const known = Object.keys(table);
  const foreign = foreignOption(name, value, table);
  if (foreign !== null) return new UsageError(`unknown option ${rawName}; ${foreign}`);
  const negated = /^no-?(.+)$/.exec(name)?.[1]?.replaceAll("_", "-");
  if (negated !== undefined && table[negated]?.type === "bool") {
    return new UsageError(`unknown option ${shown(rawName)}; did you mean --${negated} off?`);
  }
  const hint = suggestion(name, [...known, "help"], "--help lists the options", "--");
  return new UsageError(`unknown option ${shown(rawName)}${hint}`);
}

/** A value written as text. `name` is for messages: --alpha, or "alpha" in a file. */
export function readText(name: string, spec: OptionSpec, text: string): unknown {
  switch (spec.type) {
    case "int":
    case "float": {
      const number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text.trim()) ? Number(text) : Number.NaN;
      return readNumber(name, spec, number, shown(text));
    }
    case "bool":
      if (/^(on|true)$/i.test(text)) return true;
      if (/^(off|false)$/i.test(text)) return false;
      throw new UsageError(`${name} expects on or off, got ${text === "" ? '""' : shown(text)}`);
    case "enum":
      return readChoice(name, spec.values, text);
    case "list": {
      const items = text.split(",").map((item) => item.trim());
      return readList(name, spec, items);
    }
    case "repeated":
      return [readString(name, text)];
    case "date":
      return readDate(name, spec, text, text === "" ? '""' : shown(text));
    default:
      return readString(name, text);
  }
}

function readNumber(
  name: string,
  spec: Extract<OptionSpec, { type: "int" | "float" }>,
  number: number,
  shown: string,
): number {
  if (isInRange(spec, number)) return number;
  const isTooLarge = spec.type === "int" && spec.max === undefined && number > Number.MAX_SAFE_INTEGER;
  const limit = isTooLarge ? ` and at most ${Number.MAX_SAFE_INTEGER}` : "";
  throw new UsageError(`${name} expects ${expected(spec)}${limit}, got ${shown}`);
}

function readChoice(name: string, values: readonly string[], text: string): string {
  if (values.includes(text)) return text;
  const all = values.join(", ");
  throw new UsageError(
    `${name} expects one of ${all}; got ${quoted(text)}${suggestion(text, values, "choose one of these")}`,
  );
}

function readList(
  name: string,
  { values, all = [], none = [] }: Extract<OptionSpec, { type: "list" }>,
  items: readonly string[],
): string[] {
  if (values !== undefined && items.length === 1 && all.includes(items[0]!)) return [...values];
  if (items.length === 1 && none.includes(items[0]!)) return [];
  if (items.some((item) => item === "")) throw new UsageError(`${name} expects names separated by commas`);
  for (const item of items) if (values !== undefined) readChoice(name, values, item);
  const twice = items.find((item, i) => items.indexOf(item) !== i);
  if (twice !== undefined) throw new UsageError(`${name} names ${shown(twice)} twice`);
  return [...items];
}

function readDate(name: string, spec: OptionSpec, text: string, shown: string): string {
  if (accepts(spec, text)) return text;
  if (!hasDateForm(text)) throw new UsageError(`${name} expects ${expected(spec)}, got ${shown}`);
  throw new UsageError(`${name} expects ${expected(spec)}; there is no day ${shown}`);
}

function readString(name: string, text: string): string {
  if (text === "") throw new UsageError(`${name} expects a value, got an empty one`);
  if (text.includes("\0")) throw new UsageError(`${name} holds a NUL character, got ${quoted(text)}`);
  return text;
}

/**
 * A value of a config file for `option`, of the types that the file's own syntax has; `name` is for messages. Throws
 * UsageError.
 */
export function readValue(option: string, name: string, spec: OptionSpec, given: unknown): unknown {
  const value = typeof given === "string" ? ownValue(option, given) : given;
  const wrong = () => {
    const got = Array.isArray(value) ? "a list" : value === null ? "nothing" : shown(JSON.stringify(value));
    return new UsageError(`${name} expects ${expected(spec)}, got ${got}`);
  };
  switch (spec.type) {
    case "int":
    case "float":
      if (typeof value !== "number") throw wrong();
      return readNumber(name, spec, value, String(value));
    case "bool":
      if (typeof value === "boolean") return value;
      if (value === "on" || value === "off") return value === "on";
      throw wrong();
    case "enum":
      // YAML reads a bare `true` as a boolean, and --neft-length has that value.
      if (typeof value !== "string" && typeof value !== "boolean") throw wrong();
      return readChoice(name, spec.values, String(value));
    case "list":
    case "repeated": {
      if (typeof value === "string") return readText(name, spec, value);
      if (!Array.isArray(value) || !value.every((item) => typeof item === "string" && item !== ""))
        throw wrong();
      for (const item of value) readString(name, item);
      return spec.type === "list" ? readList(name, spec, value) : value;
    }
    case "date":
      if (typeof value !== "string") throw wrong();
      return readDate(name, spec, value, quoted(value));
    default:
      if (typeof value !== "string") throw wrong();
      return readString(name, value);
  }
}

/** Flags over the config file's values over defaults. */
export function resolveValues<T extends OptionTable>(
  table: T,
  flags: Given,
  file: Given = new Map(),
): Values<T> {
  const values: Record<string, unknown> = {};
  for (const [name, spec] of Object.entries(table)) {
    values[name] = flags.get(name)?.value ?? file.get(name)?.value ?? spec.default;
  }
  return values as Values<T>;
}
