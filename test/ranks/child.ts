// A process that is one rank of several, for tests: its environment says which, and in KIND on what it computes.

import { joinTeam } from "../../src/ranks/join.ts";
import { placementOf } from "../../src/ranks/placement.ts";
import type { Ranks } from "../../src/ranks/ranks.ts";
import type { Team } from "../../src/ranks/team.ts";

/** Joins the other ranks, works with them, and ends the process: on a failure with a line that says what failed. */
export async function asRank(work: (team: Team) => void): Promise<never> {
  const placement = placementOf(process.env)!;
  const kind = process.env.KIND === "cuda" ? "cuda" : "cpu";
  let ranks: Ranks | null = null;
  try {
    const team = await joinTeam(placement, { kind, index: null, threads: 1 }, process.env, (started) => {
      ranks = started;
    });
    work(team);
    await team.close();
  } catch (error) {
    const told = ranks === null ? error : await (ranks as Ranks).explain(error);
    if (told instanceof Error) console.error(`rank ${placement.rank}: error: ${told.message}`);
    await (ranks as Ranks | null)?.farewell(told);
    process.exit(1);
  }
  process.exit(0);
}
