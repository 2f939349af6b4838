// What a command is, and what it is given to run.

import type { OptionTable, Values } from "./options.ts";

/** Where a command reads and writes; a test can give its own. */
export interface Context {
  readonly version: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Arguments that are no options. */
  readonly positionals: readonly string[];
  /** Options that were given, and where. */
  readonly given: ReadonlyMap<string, "flag" | "config file">;
  /** Aborts at the first Ctrl-C, SIGTERM or SIGHUP, where the command is interruptible. */
  readonly signal: AbortSignal;
  /** True where standard error is a terminal and --quiet is off. */
  readonly isTerminal: boolean;
  /** Results: text or JSON on standard output. */
  print(text: string): void;
  /** All else, on standard error; nothing with --quiet. */
  note(text: string): void;
  /** Standard error without a line end, for a line that is drawn again; nothing with --quiet. */
  draw(text: string): void;
}

export interface Command<T extends OptionTable = OptionTable> {
  name: string;
  /** One line, for the list of commands. */
  summary: string;
  /** What follows the name in the usage line, such as "FILE|DIR". */
  positionals?: { usage: string; min: number; max: number; help: string };
  /** More about the command, for its --help. */
  description?: string;
  options: T;
  /** What to type, and what that does. */
  examples: readonly (readonly [command: string, meaning: string])[];
  /** Saves or ends in order at the first Ctrl-C; other commands just end. */
  interruptible?: boolean;
  run(values: Values<T & typeof commonOptions>, context: Context): Promise<void>;
}

/** Keeps the literal types of a command's options. */
export function defineCommand<const T extends OptionTable>(command: Command<T>): Command<T> {
  return command;
}

const group = "Common";

/** Options of every command. */
export const commonOptions = {
  config: {
    type: "path",
    group,
    value: "FILE",
    help: "options from a .toml, .yaml or .json file; flags win over it",
  },
  device: {
    type: "string",
    group,
    default: "auto",
    value: "cpu|cuda[:N]|auto",
    help: "where to compute; auto: the first NVIDIA GPU that can be used, else the CPU",
  },
  threads: {
    type: "int",
    group,
    default: 0,
    min: 0,
    max: 256,
    value: "N",
    help: "CPU threads; 0 is all that this process may use",
  },
  json: {
    type: "bool",
    group,
    default: false,
    help: "the result as JSON on standard output, all else on standard error",
  },
  quiet: { type: "bool", group, default: false, help: "nothing on standard error but errors" },
} as const satisfies OptionTable;
