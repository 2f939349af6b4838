// `--config run.toml|.yaml|.json`: the same names as the flags, which win over it.

import { UsageError } from "../../errors.ts";
import { suggestion } from "../../nearest.ts";
import type { OptionTable } from "../../options/spec.ts";
import { adapterOwn } from "../../options/table.ts";
import { quoted, shown } from "../terminal/text.ts";
import { resolveName } from "./aliases.ts";
import { parseConfig } from "./config-syntax.ts";
import { foreignOption, type Given, givenTwice, readValue } from "./options.ts";

/** Options that make no sense inside a config file. */
const flagsOnly = new Set(["config", "help"]);

/** Of a run's own config.json, which records more than options. */
const RUN_KEY = "neftune_version";

/** Of a run's config.json what was found, and not an option, for all that it has an option's name. */
const runFindings = new Set(["device"]);

/**
 * Reads a config file for a command's options. Null is as good as not given. A run's own config.json is read, too: what
 * else it records is passed over. Throws UsageError for contents and syntax.
 */
export async function readConfigFile(path: string, table: OptionTable): Promise<Given> {
  const entries = await parseConfig(path);
  const isRun = entries.has(RUN_KEY);
  const given: Given = new Map();
  for (const [key, value] of entries) {
    if (isRun && runFindings.has(key)) continue;
    // A run's record holds our own names only.
    const name = isRun ? key : resolveName(key, table);
    const spec = Object.hasOwn(table, name) && !flagsOnly.has(name) ? table[name] : undefined;
    if (spec === undefined) {
      if (isRun) continue;
      throw unknownKey(path, key, value, table);
    }
    if (value === null) continue;
    const origin = `${path}: ${shown(key)}`;
    const earlier = given.get(name);
    if (earlier !== undefined) throw givenTwice(earlier.origin, shown(key));
    given.set(name, { value: readValue(name, origin, spec, value), origin });
  }
  // A run records the adapter and, beside it, what the adapter brought.
  if (isRun && given.has("adapter")) for (const key of adapterOwn) given.delete(key);
  return given;
}

function unknownKey(path: string, key: string, value: unknown, table: OptionTable): UsageError {
  const foreign = foreignOption(key, value, table);
  if (foreign !== null) {
    // Keys have no leading dashes.
    return new UsageError(`${path}: unknown key ${quoted(key)}; ${foreign.replaceAll(/--(?=[a-z])/g, "")}`);
  }
  const known = Object.keys(table).filter((name) => !flagsOnly.has(name));
  return new UsageError(
    `${path}: unknown key ${quoted(key)}${suggestion(key, known, "--help lists the options")}`,
  );
}
