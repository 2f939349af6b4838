// The commands with their whole tables of options, as the man page and the completions need them.

import { commonOptions } from "../../src/cli/command.ts";
import { commands, type LoadedCommand, loadCommand } from "../../src/cli/commands.ts";
import type { OptionSpec, OptionTable } from "../../src/options/spec.ts";

/** Options that are no command's own. */
export const common: OptionTable = commonOptions;

/** Every command, loaded, in the order of --help. */
export const loadCommands = (): Promise<LoadedCommand[]> => Promise.all(commands.map(loadCommand));

/** A command's own options and the common ones. */
export const allOptions = (command: LoadedCommand): [name: string, spec: OptionSpec][] =>
  Object.entries({ ...command.options, ...common });

/** The words that an option takes; none where it takes anything. */
export function choices(spec: OptionSpec): readonly string[] {
  switch (spec.type) {
    case "bool":
      return ["on", "off"];
    case "enum":
      return spec.values;
    case "list":
      return [...(spec.all ?? []), ...(spec.values ?? [])];
    default:
      return [];
  }
}
