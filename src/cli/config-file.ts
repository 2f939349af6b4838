// `--config run.toml|.yaml|.json`: the same names as the flags, which win over it.

import { readFileSync } from "node:fs";
import { extname } from "node:path";
import { UsageError } from "../errors.ts";
import { ioError } from "../formats/io.ts";
import { nearest } from "./nearest.ts";
import { type Given, type OptionTable, readValue } from "./options.ts";

/** Options that make no sense inside a config file. */
const flagsOnly = new Set(["config", "help"]);

/** Of a run's own config.json, which records more than options. */
const RUN_KEY = "neftune_version";

/** Of a run's config.json what was found, and not an option, for all that it has an option's name. */
const runFindings = new Set(["device"]);

/** Options that an adapter brings its own values of; a run's config.json records them beside the adapter. */
export const adapterOwn = ["lora-r", "lora-alpha", "target-modules", "use-rslora"];

/**
 * Reads a config file for a command's options. Null is as good as not given. A run's own config.json is read, too: what
 * else it records is passed over. Throws UsageError for contents and syntax.
 */
export async function readConfigFile(path: string, table: OptionTable): Promise<Given> {
  const parsed = await parse(path, readText(path));
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw new UsageError(`${path}: expected option names with values, such as: alpha: 5`);
  }
  const isRun = Object.hasOwn(parsed, RUN_KEY);
  const given: Given = new Map();
  for (const [key, value] of Object.entries(parsed)) {
    if (isRun && runFindings.has(key)) continue;
    const spec = Object.hasOwn(table, key) && !flagsOnly.has(key) ? table[key] : undefined;
    if (spec === undefined) {
      if (isRun) continue;
      throw unknownKey(path, key, table);
    }
    if (value === null) continue;
    given.set(key, { value: readValue(`${path}: ${key}`, spec, value), origin: path });
  }
  if (isRun && given.has("adapter")) for (const key of adapterOwn) given.delete(key);
  return given;
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw ioError(`--config ${path}`, "read", error);
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
    throw new UsageError(`${path}: not valid ${extension.slice(1).toUpperCase()}: ${reason}`, {
      cause: error,
    });
  }
  throw new UsageError(`--config ${path}: expected a file that ends in .toml, .yaml or .json`);
}

function unknownKey(path: string, key: string, table: OptionTable): UsageError {
  const known = Object.keys(table).filter((name) => !flagsOnly.has(name));
  const near = nearest(key, known);
  const hint = near === null ? "--help lists the options" : `did you mean ${near}?`;
  return new UsageError(`${path}: unknown key ${JSON.stringify(key)}; ${hint}`);
}
