// Options that have no effect in the mode that the other options choose: of LoRA with --tune full, and the like.

import { UsageError } from "../../errors.ts";
import type { TrainingSpec } from "../../options/spec.ts";
import type { Context } from "../command.ts";

/**
 * Throws UsageError for a flag that has no effect with these values. Notes each such option that a config file sets to
 * something other than its default. `sources` says where values come from, where presets and recipes had a say.
 */
export function expectEffects(
  table: Readonly<Record<string, TrainingSpec>>,
  values: object,
  context: Pick<Context, "given" | "note">,
  sources: Readonly<Record<string, string>> = Object.fromEntries(context.given),
): void {
  const settled = new Map<string, unknown>(Object.entries(values));
  for (const [name, spec] of Object.entries(table)) {
    if (spec.onlyWith === undefined) continue;
    const { option, value: needed, off } = spec.onlyWith;
    const now = settled.get(option);
    const fitting = typeof needed === "string" ? [needed] : needed;
    if (fitting === null ? now !== undefined : fitting.includes(String(now))) continue;
    const source = sources[name];
    const chosen = sources[option];
    const isByFlag = chosen === undefined || chosen === "flag" || chosen === "default";
    const mode =
      now === undefined ? `without --${option}` : `with --${option} ${now}${isByFlag ? "" : ` (${chosen})`}`;
    const isOff = off !== undefined && settled.get(name) === off;
    if (source === "flag" && !isOff) {
      const remedy =
        fitting === null ? `give --${option}` : `set --${option} ${fitting.slice(0, 2).join(" or ")}`;
      throw new UsageError(`--${name} has no effect ${mode}; leave --${name} out, or ${remedy}`);
    }
    if (source === "config file" && !isOff && !Bun.deepEquals(settled.get(name), spec.default)) {
      context.note(`${name} in the config file has no effect ${mode}`);
    }
  }
}
