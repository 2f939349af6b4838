// The executable: finds the command, reads its options, runs it, and turns what it throws into a message and an exit
// status. The only place that ends the process.

import packageJson from "../package.json" with { type: "json" };
import { ALL_GPUS, parseDevice } from "./cli/arguments/device-name.ts";
import { parseArguments, resolveValues } from "./cli/arguments/options.ts";
import { type Context, commonOptions } from "./cli/command.ts";
import { commands, type LoadedCommand, loadCommand } from "./cli/commands.ts";
import { expectAddressSpace, limitHint } from "./cli/process/address-space.ts";
import { ClosedPipe, writeFully } from "./cli/terminal/output.ts";
import { Terminal } from "./cli/terminal/terminal.ts";
import { escapeText, pageWidth, quoted, shown } from "./cli/terminal/text.ts";
import { InterruptedError, NeftuneError, UsageError } from "./errors.ts";
import { suggestion } from "./nearest.ts";
import { placementOf, rankOf } from "./ranks/placement.ts";
import type { Ranks } from "./ranks/ranks.ts";
import type { Team } from "./ranks/team.ts";

/** Writes on standard error. Where nobody reads it (a closed pipe, a terminal that hung up), the work goes on all the same. */
function say(text: string): void {
  try {
    writeFully(2, text);
  } catch (error) {
    if (!(error instanceof ClosedPipe || error instanceof NeftuneError)) throw error;
  }
}

async function main(args: readonly string[], terminal: Terminal): Promise<void> {
  const { mainHelp, commandHelp } = await import("./cli/arguments/help.ts");
  const first = args[0];
  const version = packageJson.version;
  if (first === undefined || first === "--help" || first === "-h" || first === "help") {
    const topic = first === "help" ? args[1] : undefined;
    if (topic === undefined) writeFully(1, mainHelp(version, commands, helpWidth()));
    else writeFully(1, commandHelp(await findCommand(topic), helpWidth()));
    return;
  }
  if (first === "--version") {
    writeFully(1, (await import("./cli/version.ts")).versionText(version));
    return;
  }
  const named = !first.startsWith("-");
  const command = await findCommand(named ? first : "train");
  const table = { ...command.options, ...commonOptions };
  const { given, positionals, help } = parseArguments(
    named ? args.slice(1) : args,
    table,
    command.positionals !== undefined,
  );
  if (help) {
    writeFully(1, commandHelp(command, helpWidth()));
    return;
  }
  checkPositionals(command, positionals);
  let file: typeof given | undefined;
  const configPath = given.get("config")?.value;
  if (typeof configPath === "string") {
    file = await (await import("./cli/arguments/config-file.ts")).readConfigFile(configPath, table);
  }
  const values = resolveValues(table, given, file);
  terminal.setQuiet(values.quiet);
  parseDevice(values.device);
  expectAddressSpace(command.name);
  const placement = command.ranked === true ? placementOf(process.env) : null;
  let team: Team | null = null;
  if (placement !== null) {
    const { joinRanks } = await import("./cli/process/ranks.ts");
    const joining = { version, command: command.name, values, env: process.env, terminal };
    team = await joinRanks(placement, joining, (started) => {
      ranks = started;
    });
  } else if (values.device === ALL_GPUS) {
    const ended = await (await import("./cli/process/all-gpus.ts")).runOnAllGpus(command, args, process.env);
    if (ended !== null) {
      status = ended;
      return;
    }
  }
  const result = (text: string) => {
    if (team !== null && !team.isFirst) return;
    terminal.clear();
    writeFully(1, process.stdout.isTTY === true ? escapeText(text) : text);
  };
  const context: Context = {
    version,
    env: process.env,
    positionals,
    given: new Map([
      ...[...(file?.keys() ?? [])].map((name) => [name, "config file"] as const),
      ...[...given.keys()].map((name) => [name, "flag"] as const),
    ]),
    ...(command.interruptible === true
      ? (await import("./cli/process/interrupt.ts")).listen((text) => terminal.note(text))
      : { signal: new AbortController().signal }),
    team,
    isTerminal: terminal.live,
    ...(process.stdout.isTTY === true ? { columns: process.stdout.columns || 80 } : {}),
    print: (text) => result(text.endsWith("\n") ? text : `${text}\n`),
    write: (text) => result(text),
    note: (text) => terminal.note(text),
    draw: (line) => terminal.draw(line),
  };
  await command.run(values, context);
  terminal.clear();
  await team?.close();
}

const helpWidth = () => pageWidth(process.env.COLUMNS, process.stdout.columns);

async function findCommand(name: string): Promise<LoadedCommand> {
  const entry = commands.find((known) => known.name === name);
  if (entry !== undefined) return loadCommand(entry);
  const names = commands.map((known) => known.name);
  throw new UsageError(
    `unknown command ${shown(name)}${suggestion(name, names, "neftune --help lists the commands")}`,
  );
}

function checkPositionals(command: LoadedCommand, positionals: readonly string[]): void {
  const { usage, min, max } = command.positionals ?? { usage: "", min: 0, max: 0 };
  if (positionals.length > max) {
    throw new UsageError(`${command.name}: unexpected argument ${quoted(positionals[max]!)}`);
  }
  if (positionals.length < min) throw new UsageError(`${command.name} needs ${usage}`);
}

/** Tells what a command threw. */
function tell(error: unknown, terminal: Terminal): void {
  if (error instanceof InterruptedError) {
    terminal.note(error.message);
    return;
  }
  // It may have failed before it joined the other ranks.
  terminal.setRank(rankOf(process.env) ?? 0);
  const isKnown = error instanceof NeftuneError;
  const message = error instanceof Error ? error.message : String(error);
  const hint = limitHint(error);
  terminal.fail(
    isKnown || hint !== "" ? `${message}${hint}` : `${message} (internal error; please report this bug)`,
  );
  if (process.env.NEFTUNE_DEBUG === "1" && error instanceof Error)
    say(`${escapeText(String(error.stack))}\n`);
  else if (!isKnown) say("NEFTUNE_DEBUG=1 shows where it happened; add that to the report.\n");
}

const terminal = new Terminal({
  write: say,
  isTerminal: process.stderr.isTTY === true,
  columns: () => process.stderr.columns || 80,
});
/** The other ranks, from the moment that this one looks for them. */
let ranks: Ranks | null = null;
let status = 0;
try {
  await main(process.argv.slice(2), terminal);
} catch (error) {
  if (!(error instanceof ClosedPipe)) {
    // TypeScript does not see what main() sets.
    const others = ranks as Ranks | null;
    const told = others === null ? error : await others.explain(error);
    status = told instanceof NeftuneError ? told.exitStatus : 1;
    if (told !== null) tell(told, terminal);
    await others?.farewell(told);
  }
}
process.exit(status);
