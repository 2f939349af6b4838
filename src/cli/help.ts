// --help texts, made from the tables of commands and options.

import { type Command, commonOptions } from "./command.ts";
import type { OptionSpec } from "./options.ts";

const WIDTH = 100;

/** Breaks `text` into lines of at most `width` letters at spaces. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}

function placeholder(spec: OptionSpec): string {
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

function defaultText(spec: OptionSpec): string {
  if (spec.default === undefined || spec.default === false) return "";
  if (spec.default === true) return " (default on)";
  return ` (default ${Array.isArray(spec.default) ? spec.default.join(",") : String(spec.default)})`;
}

function optionLines(name: string, spec: OptionSpec): string[] {
  const indent = 4;
  const column = 34;
  const head = `${" ".repeat(2)}--${name} ${placeholder(spec)}`;
  const body = wrap(`${spec.help}${defaultText(spec)}`, WIDTH - column);
  const lines = head.length < column - 1 ? [head.padEnd(column) + body.shift()!] : [head];
  if (head.length >= column - 1 && head.length + indent > WIDTH) lines[0] = head;
  return [...lines, ...body.map((line) => " ".repeat(column) + line)];
}

/** The whole help of a command. */
export function commandHelp(command: Command): string {
  const usage = ["neftune", command.name, command.positionals?.usage, "[options]"].filter(Boolean).join(" ");
  const lines = [`${command.summary[0]!.toUpperCase()}${command.summary.slice(1)}.`, "", `Usage: ${usage}`];
  if (command.positionals) lines.push("", ...wrap(command.positionals.help, WIDTH));
  if (command.description) {
    for (const paragraph of command.description.split("\n")) lines.push("", ...wrap(paragraph, WIDTH));
  }
  const groups = new Map<string, string[]>();
  for (const [name, spec] of Object.entries({ ...command.options, ...commonOptions })) {
    const heading = spec.group ?? "Options";
    groups.set(heading, [...(groups.get(heading) ?? []), ...optionLines(name, spec)]);
  }
  for (const [heading, entries] of groups) lines.push("", `${heading}:`, ...entries);
  lines.push(`  -h, --help                      this text`, "", "Examples:");
  for (const [typed, meaning] of command.examples) lines.push(`  ${typed}`, `      ${meaning}`);
  return `${lines.join("\n")}\n`;
}

/** The list of commands. */
export function mainHelp(version: string, commands: readonly { name: string; summary: string }[]): string {
  const list = commands.map(({ name, summary }) => `  ${name.padEnd(10)}${summary}`);
  return `neftune ${version}: fine-tunes Llama models with noisy embeddings (NEFTune)

Usage: neftune [command] [options]

${list.join("\n")}

A first argument that is a flag means train:
  neftune --model llama2-7b --alpha 5

neftune COMMAND --help tells a command's options. neftune demo shows everything in about a minute.
`;
}
