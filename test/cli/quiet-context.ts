import type { Context } from "../../src/cli/command.ts";

/** What a command is given to run, with nobody to print to but what `own` says. */
export function quietContext(own: Partial<Context> = {}): Context {
  return {
    version: "test",
    env: {},
    positionals: [],
    given: new Map(),
    signal: new AbortController().signal,
    isTerminal: false,
    print: () => {},
    write: () => {},
    note: () => {},
    draw: () => {},
    ...own,
  };
}
