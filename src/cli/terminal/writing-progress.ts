// How far the writing of a model's folder or file is.

import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Steps } from "../../steps.ts";
import type { Context } from "../command.ts";
import { formatBytes, formatSeconds } from "./format.ts";

/** From one look at the folder to the next. */
const LOOK_MILLISECONDS = 250;

const size = (path: string) => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

/** Of a file, or of the files of a folder. */
function bytesIn(path: string): number {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) return size(path);
  return readdirSync(path).reduce((bytes, name) => bytes + size(join(path, name)), 0);
}

/** The steps, with a line about the folder or file at `path` that they fill. */
export function* withWritingProgress<T>(
  steps: Steps<T>,
  { name, path }: { name: string; path: string },
  context: Pick<Context, "draw">,
): Steps<T> {
  let start = performance.now();
  let looked = start;
  let total: number | null = null;
  try {
    for (;;) {
      const { done, value } = steps.next();
      if (done === true) return value;
      const now = performance.now();
      if (typeof value === "number") [total, start] = [value, now];
      if (now - looked > LOOK_MILLISECONDS) {
        looked = now;
        // Files beside the weights, as a tokenizer, are not in the total.
        const bytes = Math.min(bytesIn(path), total ?? Number.POSITIVE_INFINITY);
        const left = total === null || bytes === 0 ? null : ((now - start) / 1000) * (total / bytes - 1);
        context.draw([
          { text: `writing ${name}:`, rank: 2 },
          { text: `${formatBytes(bytes)}${total === null ? "" : ` of ${formatBytes(total)}`}`, rank: 0 },
          ...(left === null ? [] : [{ text: `${formatSeconds(left)} left`, rank: 1 }]),
        ]);
      }
      yield;
    }
  } finally {
    context.draw("");
    steps.return(undefined as never);
  }
}
