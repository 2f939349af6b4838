// The keys and values of a TOML, YAML or JSON config file, which is small, untrusted and read once.

import { readFileSync, statSync } from "node:fs";
import { extname } from "node:path";
import { UsageError } from "../../errors.ts";
import { ioError } from "../../formats/io.ts";
import { JsonError, type JsonValue, parseJson } from "../../formats/safetensors/json.ts";
import { quoted, shown } from "../terminal/text.ts";

/** Far more than all options take. The YAML library needs seconds for sizes that the others read at once. */
const MAX_BYTES = 1024 * 1024;
const MAX_YAML_BYTES = 64 * 1024;

/** What is wrong with the text, and in which line where that is known. */
class SyntaxProblem extends Error {
  readonly line: number | null;

  constructor(message: string, line: number | null = null) {
    super(message);
    this.line = line;
  }
}

const parsers: Readonly<Record<string, (text: string) => unknown>> = {
  ".toml": parseTomlText,
  ".yaml": parseYamlText,
  ".yml": parseYamlText,
  ".json": parseJsonText,
};

/** The top level of a config file, in order. Throws UsageError for syntax and doubled keys, NeftuneError ("io"). */
export async function parseConfig(path: string): Promise<Map<string, unknown>> {
  const extension = extname(path).toLowerCase();
  const text = readText(path, extension.startsWith(".y") ? MAX_YAML_BYTES : MAX_BYTES);
  const parser = Object.hasOwn(parsers, extension) ? parsers[extension] : undefined;
  if (parser === undefined) {
    throw new UsageError(`--config ${path}: expected a file that ends in .toml, .yaml or .json`);
  }
  try {
    const entries = await parser(text);
    if (entries instanceof Map) return entries;
  } catch (error) {
    if (!(error instanceof SyntaxProblem)) throw error;
    const line = error.line === null ? "" : `line ${error.line}: `;
    throw new UsageError(`${path}: not valid ${extension.slice(1).toUpperCase()}: ${line}${error.message}`, {
      cause: error,
    });
  }
  throw new UsageError(`${path}: expected option names with values, such as: alpha: 5`);
}

function readText(path: string, maxBytes: number): string {
  const where = `--config ${path}`;
  let bytes: Uint8Array;
  try {
    const status = statSync(path);
    if (status.isDirectory()) throw new UsageError(`${where} is a folder; expected a file`);
    if (!status.isFile()) throw new UsageError(`${where} is not a regular file`);
    if (status.size > maxBytes) {
      throw new UsageError(`${where} has ${status.size} bytes; expected at most ${maxBytes}`);
    }
    bytes = readFileSync(path);
  } catch (error) {
    throw ioError(where, "read", error);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new UsageError(`${where} is not UTF-8 text`, { cause });
  }
}

function parseJsonText(text: string): unknown {
  try {
    const value = parseJson(text);
    return value instanceof Map ? new Map([...value].map(([key, each]) => [key, plain(each)])) : value;
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    const [, reason = "", at] =
      /^(?:not valid JSON: )?(.*?)(?: at character (\d+))?$/s.exec(error.message) ?? [];
    throw new SyntaxProblem(reason, at === undefined ? null : lineAt(text, Number(at)));
  }
}

/** Objects in place of maps: only their being no value of an option counts. */
function plain(value: JsonValue): unknown {
  if (value instanceof Map) return {};
  return Array.isArray(value) ? value.map(plain) : value;
}

function lineAt(text: string, offset: number): number {
  return text.slice(0, offset).split("\n").length;
}

async function parseTomlText(text: string): Promise<unknown> {
  const { parse, TomlDate, TomlError } = await import("smol-toml");
  try {
    const entries = Object.entries(parse(text));
    return new Map(
      entries.map(([key, value]) => [key, value instanceof TomlDate ? dateIn(text, key, value) : value]),
    );
  } catch (error) {
    if (error instanceof SyntaxProblem) throw error;
    if (!(error instanceof TomlError)) throw tooDeep(error);
    const reason = (error.message.split("\n")[0] ?? "").replace(/^Invalid TOML document: /, "");
    if (!reason.startsWith("trying to redefine")) throw new SyntaxProblem(reason, error.line);
    const line = text.split("\n")[error.line - 1] ?? "";
    const key = /^[^=\]]*/.exec(line)?.[0].replaceAll(/[\s["']/g, "") ?? "";
    throw new SyntaxProblem(`the key ${quoted(key)} is given twice`, error.line);
  }
}

/** A date as it is written. The library takes 30 February for 1 March. */
function dateIn(text: string, key: string, date: { toISOString(): string; isDate(): boolean }): string {
  const day = date.toISOString();
  if (date.isDate() && !text.includes(day)) {
    throw new SyntaxProblem(`the day that ${quoted(key)} names does not exist`);
  }
  return day;
}

async function parseYamlText(text: string): Promise<unknown> {
  const { isMap, LineCounter, parseDocument } = await import("yaml");
  const lines = new LineCounter();
  // The library's own search for equal keys takes time by their square.
  const document = parseDocument(text, { uniqueKeys: false, logLevel: "silent", lineCounter: lines });
  const [problem] = document.errors;
  if (problem !== undefined) {
    const reason = (problem.message.split("\n")[0] ?? "").replace(/ at line \d+, column \d+:?$/, "");
    const isDeep = problem.code === "RESOURCE_EXHAUSTION";
    throw new SyntaxProblem(isDeep ? "nested too deep" : reason, problem.linePos?.[0].line ?? null);
  }
  if (!isMap(document.contents)) return null;
  const entries = new Map<string, unknown>();
  for (const { key, value } of document.contents.items) {
    const name = String(key);
    if (entries.has(name)) {
      const at = (key as { range?: [number, number, number] } | null)?.range?.[0];
      throw new SyntaxProblem(
        `the key ${quoted(name)} is given twice`,
        at === undefined ? null : lines.linePos(at).line,
      );
    }
    try {
      entries.set(
        name,
        (value as { toJS?: (document: unknown) => unknown } | null)?.toJS?.(document) ?? null,
      );
    } catch (error) {
      if (error instanceof ReferenceError) throw new SyntaxProblem(`${shown(name)}: ${error.message}`);
      throw tooDeep(error);
    }
  }
  return entries;
}

/** A recursive parser runs out of stack on deeply nested text. */
function tooDeep(error: unknown): unknown {
  return error instanceof RangeError ? new SyntaxProblem("nested too deep") : error;
}
