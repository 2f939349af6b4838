// What a command is, and what it is given to run.

import type { OptionTable, Values } from "../options/spec.ts";
import type { Team } from "../ranks/team.ts";
import type { LinePart } from "./terminal/text.ts";

/** Where a command reads and writes; a test can give its own. */
export interface Context {
  readonly version: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Arguments that are not options. */
  readonly positionals: readonly string[];
  /** Options that were given, and where. */
  readonly given: ReadonlyMap<string, "flag" | "config file">;
  /** Aborts at the first Ctrl-C, SIGTERM or SIGHUP, where the command is interruptible. */
  readonly signal: AbortSignal;
  /** Lets a signal wait for the work under way, because there is something to save; see interrupt.ts. */
  finishFirst?(until?: string): void;
  /** The ranks that run this command together; none: this process alone does. */
  readonly team?: Team | null;
  /** True where standard error is a terminal and --quiet is off. */
  readonly isTerminal: boolean;
  /** Columns of the terminal that results are printed on; undefined where they go elsewhere. */
  readonly columns?: number;
  /** Results: text or JSON on standard output. */
  print(text: string): void;
  /** A part of a result as it comes, no line end added. */
  write(text: string): void;
  /** All else, on standard error; nothing with --quiet. */
  note(text: string): void;
  /**
   * A line on standard error that the next one takes the place of, fitted to the terminal; elsewhere a line every few
   * seconds; nothing with --quiet.
   */
  draw(line: string | readonly LinePart[]): void;
}

/** What a command takes and does. Its name and summary stand in commands.ts. */
export interface Command<T extends OptionTable = OptionTable> {
  /** What follows the name in the usage line, such as "FILE|DIR". */
  positionals?: { usage: string; min: number; max: number; help: string };
  /** More about the command, for its --help. */
  description?: string;
  options: T;
  /** What to type, and what that does. */
  examples: readonly (readonly [command: string, meaning: string])[];
  /** The command saves its work or ends cleanly at the first Ctrl-C; without this, Ctrl-C ends it at once. */
  interruptible?: boolean;
  /** The command divides its work among the ranks that a launcher starts; without this, each would do all of it. */
  ranked?: boolean;
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
    help: "read options from a .toml, .yaml or .json file; flags win over it",
  },
  device: {
    type: "string",
    group,
    default: "auto",
    value: "cpu|cuda[:N|:all]|auto",
    help: "device to run on; auto takes the first usable NVIDIA GPU, or else the CPU; cuda:all runs one process on each GPU of this machine (train, eval, generate, bench)",
  },
  threads: {
    type: "int",
    group,
    default: 0,
    min: 0,
    max: 256,
    value: "N",
    help: "number of CPU threads; 0 uses all CPUs available to this process",
  },
  json: {
    type: "bool",
    group,
    default: false,
    help: "print the result as JSON on standard output, everything else on standard error",
  },
  quiet: { type: "bool", group, default: false, help: "print nothing but errors on standard error" },
} as const satisfies OptionTable;
