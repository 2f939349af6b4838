// A command as one of several ranks: joins the others, and makes sure that all mean the same run.

import { joinTeam, type OnStart } from "../../ranks/join.ts";
import type { Placement } from "../../ranks/placement.ts";
import type { Team } from "../../ranks/team.ts";
import { parseDevice } from "../arguments/device-name.ts";
import type { Terminal } from "../terminal/terminal.ts";

/** Options that may differ between the ranks of a run. */
const ownOptions: ReadonlySet<string> = new Set(["threads", "device", "quiet", "json", "config"]);

export interface Joining {
  version: string;
  command: string;
  values: Readonly<Record<string, unknown>> & { device: string; threads: number };
  env: Readonly<Record<string, string | undefined>>;
  terminal: Terminal;
}

/** Throws where a rank has another version or other options. */
export async function joinRanks(placement: Placement, joining: Joining, onStart: OnStart): Promise<Team> {
  const { version, command, values, env, terminal } = joining;
  terminal.setRank(placement.rank);
  const { kind, index } = parseDevice(values.device);
  const team = await joinTeam(placement, { kind, index, threads: values.threads }, env, onStart);
  const options = Object.entries(values).filter(([name]) => !ownOptions.has(name));
  const facts = { "neftune's version": version, "the command": command, ...withDashes(options) };
  await team.ranks.expectSame(facts);
  terminal.note(describeTeam(team));
  return team;
}

const withDashes = (options: readonly [string, unknown][]) =>
  Object.fromEntries(options.map(([name, value]) => [`--${name}`, value ?? null]));

function describeTeam({ size, machine, comm }: Team): string {
  const where = machine.machines === 1 ? "on this machine" : `on ${machine.machines} machines`;
  const { transport, version } = comm.transport;
  return `ranks: ${size} ${where}, over ${transport} (${version?.replaceAll(/\s+/g, " ")})`;
}
