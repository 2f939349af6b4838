// --help texts, made from the tables of commands and options.

import type { OptionSpec } from "../../options/spec.ts";
import { commonOptions } from "../command.ts";
import type { CommandEntry, LoadedCommand } from "../commands.ts";
import { displayWidth, wrap } from "../terminal/text.ts";

const JOINT = " \\";

/** What --help calls the value of an option. */
export function metavar(spec: OptionSpec): string {
  if (spec.value !== undefined) return spec.value;
  switch (spec.type) {
    case "int":
      return "N";
    case "float":
      return "X";
    case "bool":
      return "[on|off]";
    case "enum":
      return spec.values.join("|");
    case "list":
      return "A,B,…";
    case "path":
      return "PATH";
    default:
      return "TEXT";
  }
}

/** The default in parentheses, with a space before it; nothing where there is none, or it is off or empty. */
export function defaultText(spec: OptionSpec): string {
  if (spec.default === undefined || spec.default === false) return "";
  if (spec.default === true) return " (default on)";
  const text = Array.isArray(spec.default) ? spec.default.join(",") : String(spec.default);
  return text === "" ? "" : ` (default ${text})`;
}

const indent = (lines: readonly string[], by: number) => lines.map((line) => " ".repeat(by) + line);

/** A term at the left and what it means: beside it where there is room for two columns, else below. */
function entry(term: string, meaning: string, column: number, width: number): string[] {
  const isBeside = width - column >= 28;
  const at = isBeside ? column : 6;
  const body = indent(wrap(meaning, width - at), at);
  if (isBeside && displayWidth(term) + 4 <= column) {
    const [first = "", ...rest] = body;
    return [`  ${term.padEnd(column - 2)}${first.slice(column)}`, ...rest];
  }
  const [first = "", ...rest] = wrap(term, width - 6);
  return [`  ${first}`, ...indent(rest, 6), ...body];
}

/** A command to type, in lines that a shell takes as one. */
function typedLines(command: string, width: number): string[] {
  const [first = "", ...rest] = wrap(command, width - 6, JOINT);
  return [`  ${first}`, ...indent(rest, 4)];
}

const optionColumn = (width: number) => (width >= 90 ? 34 : 28);

/** The whole help of a command, in lines of at most `width` columns. */
export function commandHelp(command: LoadedCommand, width: number): string {
  const usage = ["neftune", command.name, command.positionals?.usage, "[options]"].filter(Boolean).join(" ");
  const title = `${command.summary[0]!.toUpperCase()}${command.summary.slice(1)}.`;
  const lines = [...wrap(title, width), "", ...wrap(`Usage: ${usage}`, width)];
  if (command.positionals) lines.push("", ...wrap(command.positionals.help, width));
  if (command.description) {
    for (const paragraph of command.description.split("\n")) lines.push("", ...wrap(paragraph, width));
  }
  const column = optionColumn(width);
  const groups = new Map<string, string[]>();
  for (const [name, spec] of Object.entries({ ...command.options, ...commonOptions })) {
    const heading = spec.group ?? "Options";
    const term = `--${name} ${metavar(spec)}`;
    const described = entry(term, `${spec.help}${defaultText(spec)}`, column, width);
    groups.set(heading, [...(groups.get(heading) ?? []), ...described]);
  }
  for (const [heading, entries] of groups) lines.push("", `${heading}:`, ...entries);
  lines.push(...entry("-h, --help", "show this help", column, width), "", "Examples:");
  for (const [typed, meaning] of command.examples) {
    lines.push(...typedLines(typed, width), ...indent(wrap(meaning, width - 6), 6));
  }
  return `${lines.join("\n")}\n`;
}

/** The list of commands, in lines of at most `width` columns. */
export function mainHelp(
  version: string,
  commands: readonly Pick<CommandEntry, "name" | "summary">[],
  width: number,
): string {
  const title = `neftune ${version}: fine-tune Llama, Mistral and Qwen models with noisy embeddings (NEFTune)`;
  const closing =
    "neftune COMMAND --help lists a command's options. To see everything at work in a minute or two, run neftune demo.";
  const lines = [
    ...wrap(title, width),
    "",
    "Usage: neftune [command] [options]",
    "",
    ...commands.flatMap(({ name, summary }) => entry(name, summary, 12, width)),
    "",
    ...wrap("Without a command, options are those of train:", width),
    ...typedLines("neftune --model llama2-7b --alpha 5", width),
    "",
    ...wrap(closing, width),
  ];
  return `${lines.join("\n")}\n`;
}
