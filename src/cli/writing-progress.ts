// How far the writing of a model's folder is.

import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Steps } from "../steps.ts";
import type { Context } from "./command.ts";
import { formatBytes, formatSeconds } from "./format.ts";

/** From one look at the folder to the next. */
const LOOK_MILLISECONDS = 250;

function bytesIn(dir: string): number {
  let bytes = 0;
  for (const name of readdirSync(dir))
    bytes += statSync(join(dir, name), { throwIfNoEntry: false })?.size ?? 0;
  return bytes;
}

/** The steps, with a line about the folder that they fill; `total` is what will be in it, null where that is not known. */
export function* withWritingProgress<T>(
  steps: Steps<T>,
  { name, dir, total }: { name: string; dir: string; total: number | null },
  context: Pick<Context, "draw">,
): Steps<T> {
  const start = performance.now();
  let looked = start;
  try {
    for (;;) {
      const { done, value } = steps.next();
      if (done === true) return value;
      const now = performance.now();
      if (now - looked > LOOK_MILLISECONDS) {
        looked = now;
        const bytes = bytesIn(dir);
        const left = total === null || bytes === 0 ? null : ((now - start) / 1000) * (total / bytes - 1);
        context.draw([
          { text: `writing ${name}:`, rank: 2 },
          { text: `${formatBytes(bytes)}${total === null ? "" : ` of ${formatBytes(total)}`}`, rank: 0 },
          ...(left === null ? [] : [{ text: `${formatSeconds(Math.max(0, left))} left`, rank: 1 }]),
        ]);
      }
      yield;
    }
  } finally {
    context.draw("");
    steps.return(undefined as never);
  }
}
