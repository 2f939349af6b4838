// The wish to stop, as an exit status: 128 and the number of the signal that asks for it.

import { InterruptedError } from "../errors.ts";
import { onAllRanks } from "./ranks.ts";
import type { Team } from "./team.ts";

export const INTERRUPTED = 130;
const TERMINATED = 143;

/** What an aborted signal asks for; null: it is not aborted. SIGHUP asks for what SIGINT does. */
export function wishOf(signal: AbortSignal | undefined): number | null {
  if (signal?.aborted !== true) return null;
  const name = signal.reason instanceof Error ? signal.reason.message : "";
  return name === "SIGTERM" ? TERMINATED : INTERRUPTED;
}

/** A wish as numbers that ranks can add, and what their sums mean. */
export const wishNumbers = (wish: number | null) => [wish === INTERRUPTED, wish === TERMINATED].map(Number);
export function wishOfSums([interrupted = 0, terminated = 0]: readonly number[]): number | null {
  if (terminated > 0) return TERMINATED;
  return interrupted > 0 ? INTERRUPTED : null;
}

/** What this process is asked for alone, or any rank of its team. */
export function agreedWish(team: Team | null, signal: AbortSignal | undefined): number | null {
  const own = wishOf(signal);
  return team === null ? own : wishOfSums(team.sum(wishNumbers(own)));
}

/** The error of a stop. Of a team, all ranks throw it; one process alone ends with 130 whatever the signal. */
export function stopError(message: string, wish: number, team: Team | null): InterruptedError {
  return team === null ? new InterruptedError(message) : onAllRanks(new InterruptedError(message, wish));
}
