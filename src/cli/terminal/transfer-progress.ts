// The live line of a download or an upload on a terminal; a line every now and then elsewhere.

import type { Context } from "../command.ts";
import { formatBytes, formatSeconds } from "./format.ts";

const LIVE_MILLISECONDS = 100;
const PLAIN_MILLISECONDS = 10_000;
/** The speed shown is the mean over the last WINDOW milliseconds. */
const WINDOW = 5000;

export interface TransferProgress {
  /** `held`: bytes of `total` that need no transfer. */
  start(id: string, held: number, total: number): void;
  show(bytes: number, total: number): void;
  /** Says how long it took, if all has been transferred. */
  end(): void;
}

export function transferProgress(context: Pick<Context, "note" | "draw" | "isTerminal">): TransferProgress {
  let id = "";
  let shownAt = 0;
  let startedAt = 0;
  let startBytes = 0;
  let last = { bytes: 0, total: 0 };
  let marks: { at: number; bytes: number }[] = [];
  return {
    start(name, held, total) {
      id = name;
      startedAt = performance.now();
      shownAt = startedAt;
      startBytes = held;
      last = { bytes: held, total };
      marks = [{ at: startedAt, bytes: held }];
    },
    show(bytes, total) {
      last = { bytes, total };
      const now = performance.now();
      if (now - shownAt < (context.isTerminal ? LIVE_MILLISECONDS : PLAIN_MILLISECONDS)) return;
      shownAt = now;
      marks.push({ at: now, bytes });
      while (marks.length > 2 && now - marks[0]!.at > WINDOW) marks.shift();
      const [first] = marks;
      const rate = ((bytes - first!.bytes) / (now - first!.at)) * 1000;
      const left = rate > 0 ? `, ${formatSeconds((total - bytes) / rate)} left` : "";
      const line = `${id}: ${formatBytes(bytes)} of ${formatBytes(total)}, ${formatBytes(Math.max(0, rate))}/s${left}`;
      if (context.isTerminal) context.draw(line);
      else context.note(line);
    },
    end() {
      context.draw("");
      if (last.bytes < last.total) return;
      const seconds = (performance.now() - startedAt) / 1000;
      context.note(`${id}: ${formatBytes(last.total - startBytes)} in ${formatSeconds(seconds)}`);
    },
  };
}
