// neftune.1, made from the same tables as --help.

import { defaultText, metavar } from "../../src/cli/arguments/help.ts";
import { commonOptions } from "../../src/cli/command.ts";
import type { LoadedCommand } from "../../src/cli/commands.ts";
import type { OptionTable } from "../../src/options/spec.ts";

/** Text for roff: its backslashes, its hyphens (which are to be typed), and dots and quotes that would begin a request. */
const roff = (text: string): string =>
  text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/^(?=[.'])/gm, "\\&");

const bold = (text: string) => `\\fB${roff(text)}\\fR`;
const italic = (text: string) => `\\fI${roff(text)}\\fR`;

/** A quoted argument of a request. */
const argument = (text: string) => `"${roff(text).replaceAll('"', "\\(dq")}"`;

function options(table: OptionTable): string[] {
  const groups = new Map<string, string[]>();
  for (const [name, spec] of Object.entries(table)) {
    const heading = spec.group ?? "";
    const lines = [
      ".TP",
      `${bold(`--${name}`)} ${italic(metavar(spec))}`,
      roff(`${spec.help}${defaultText(spec)}`),
    ];
    groups.set(heading, [...(groups.get(heading) ?? []), ...lines]);
  }
  return [...groups].flatMap(([heading, lines]) => [
    ...(heading === "" || groups.size === 1 ? [] : [".PP", italic(heading)]),
    ...lines,
  ]);
}

function section(command: LoadedCommand): string[] {
  const usage = ["neftune", command.name, command.positionals?.usage, "[options]"].filter(Boolean).join(" ");
  const paragraphs = [command.positionals?.help, ...(command.description?.split("\n") ?? [])];
  return [
    `.SH ${argument(`NEFTUNE ${command.name.toUpperCase()}`)}`,
    roff(`${command.summary[0]!.toUpperCase()}${command.summary.slice(1)}.`),
    ".PP",
    bold(usage),
    ...paragraphs.filter((text) => text !== undefined && text !== "").flatMap((text) => [".PP", roff(text!)]),
    ...options(command.options),
    ...command.examples.flatMap(([typed, meaning]) => [
      ".PP",
      roff(meaning),
      ".EX",
      roff(`  ${typed}`),
      ".EE",
    ]),
  ];
}

/** The page of `version`, dated by `seconds` after 1970. */
export function manPage(commands: readonly LoadedCommand[], version: string, seconds: number): string {
  const day = new Date(seconds * 1000).toISOString().slice(0, 10);
  return [
    `.TH NEFTUNE 1 ${argument(day)} ${argument(`neftune ${version}`)}`,
    ".SH NAME",
    "neftune \\- fine\\-tune Llama, Mistral and Qwen models with noisy embeddings (NEFTune)",
    ".SH SYNOPSIS",
    `${bold("neftune")} [${italic("command")}] [${italic("options")}]`,
    ".SH DESCRIPTION",
    "Without a command, options are those of",
    `${bold("train")}.`,
    ...commands.flatMap(({ name, summary }) => [".TP", bold(name), roff(summary)]),
    ".SH COMMON OPTIONS",
    "These options belong to every command.",
    ...options(commonOptions),
    ".TP",
    bold("-h, --help"),
    "show the help of a command",
    ".TP",
    bold("--version"),
    "show version, commit, platform and CUDA architectures; without a command",
    ...commands.flatMap(section),
    ".SH EXIT STATUS",
    "0 on success, 1 when the work failed, 2 when the arguments are wrong, 130 after Ctrl\\-C.",
    "",
  ].join("\n");
}
