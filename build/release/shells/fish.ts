// Completions for fish.

import type { LoadedCommand } from "../../../src/cli/commands.ts";
import { allOptions, choices } from "../commands.ts";

/** Text within single quotes. */
const quoted = (text: string) => `'${text.replace(/[\\']/g, "\\$&")}'`;

/** When a command's options apply; those of train also without a command. */
function condition(command: LoadedCommand, commands: readonly LoadedCommand[]): string {
  if (command.name !== "train") return `__fish_seen_subcommand_from ${command.name}`;
  const others = commands.filter((one) => one !== command).map(({ name }) => name);
  return `not __fish_seen_subcommand_from ${others.join(" ")}`;
}

function commandLines(command: LoadedCommand, commands: readonly LoadedCommand[]): string[] {
  const when = `-n ${quoted(condition(command, commands))}`;
  return allOptions(command).map(([name, spec]) => {
    const known = choices(spec);
    // -x: a value, and no file; -r: a value, a file or not; -f: no file.
    const takes = spec.type === "bool" ? "-f" : spec.type === "path" || spec.type === "string" ? "-r" : "-x";
    const words = known.length === 0 ? "" : ` -a ${quoted(known.join(" "))}`;
    return `complete -c neftune ${when} -l ${name} ${takes}${words} -d ${quoted(spec.help)}`;
  });
}

export function fishCompletion(commands: readonly LoadedCommand[]): string {
  return [
    "# Completions of neftune for fish; put this file into ~/.config/fish/completions.",
    ...commands.map(
      ({ name, summary }) =>
        `complete -c neftune -n __fish_use_subcommand -f -a ${name} -d ${quoted(summary)}`,
    ),
    "complete -c neftune -n __fish_use_subcommand -f -l version -d 'show version, commit, platform and CUDA architectures'",
    "complete -c neftune -s h -l help -f -d 'show help'",
    ...commands.flatMap((command) => commandLines(command, commands)),
    "",
  ].join("\n");
}
