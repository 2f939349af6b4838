// `--config run.toml|.yaml|.json`: the same names as the flags, which win over it.

import { readFileSync } from "node:fs";
import { extname } from "node:path";
import { FormatError, NeftuneError, UsageError } from "../errors.ts";
import { nearest } from "./nearest.ts";
import { type Given, type OptionTable, readValue } from "./options.ts";

/** Options that make no sense inside a config file. */
const flagsOnly = new Set(["config", "help"]);

/** Reads a config file for a command's options. Throws UsageError for its contents, FormatError for its syntax. */
export async function readConfigFile(path: string, table: OptionTable): Promise<Given> {
  const parsed = await parse(path, readText(path));
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw new UsageError(`${path}: expected option names with values, such as: alpha: 5`);
  }
  const given: Given = new Map();
  for (const [key, value] of Object.entries(parsed)) {
    const spec = Object.hasOwn(table, key) && !flagsOnly.has(key) ? table[key] : undefined;
    if (spec === undefined) throw unknownKey(path, key, table);
    given.set(key, { value: readValue(`${path}: ${key}`, spec, value), origin: path });
  }
  return given;
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new NeftuneError("io", `--config ${path}: cannot read it: ${reason}`, { cause: error });
  }
}

async function parse(path: string, text: string): Promise<unknown> {
  const extension = extname(path).toLowerCase();
  try {
    if (extension === ".toml") return (await import("smol-toml")).parse(text);
    if (extension === ".yaml" || extension === ".yml") return (await import("yaml")).parse(text);
    if (extension === ".json") return JSON.parse(text) as unknown;
  } catch (error) {
    const reason = error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error);
    throw new FormatError(path, `not valid ${extension.slice(1).toUpperCase()}: ${reason}`, { cause: error });
  }
  throw new UsageError(`--config ${path}: expected a file that ends in .toml, .yaml or .json`);
}

function unknownKey(path: string, key: string, table: OptionTable): UsageError {
  const known = Object.keys(table).filter((name) => !flagsOnly.has(name));
  const near = nearest(key, known);
  const hint = near === null ? "--help lists the options" : `did you mean ${near}?`;
  return new UsageError(`${path}: unknown key ${JSON.stringify(key)}; ${hint}`);
}
