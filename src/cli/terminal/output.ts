// Standard output and error, written in order and to the last byte before the process ends: Bun's streams drop what a
// pipe has not taken yet when the process exits.

import { writeSync } from "node:fs";
import { NeftuneError } from "../../errors.ts";

/** The reader has gone (`neftune … | head`): nothing more can be said, and nothing is wrong. */
export class ClosedPipe extends Error {}

/** Writes all of `text`, waiting for a slow reader. Throws ClosedPipe where there is none any more. */
export function writeFully(fd: 1 | 2, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(fd, bytes, at);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EPIPE") throw new ClosedPipe();
      if (code !== "EAGAIN") {
        const stream = fd === 1 ? "standard output" : "standard error";
        throw new NeftuneError("io", `${stream} cannot be written: ${(error as Error).message}`, {
          cause: error,
        });
      }
      Bun.sleepSync(1);
    }
  }
}
