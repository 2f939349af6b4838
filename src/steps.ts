// Long work in steps, so that a command can look for Ctrl-C between them while the library runs it in one go.

/**
 * Yields between its steps; what writes files yields a number once, before the first tensor: the bytes that will be
 * written. Its return() cleans up where it is left early.
 */
export type Steps<T> = Generator<number | undefined, T, void>;

/** Runs all steps at once. */
export function finish<T>(steps: Steps<T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
}

/** Runs the steps, other events between them getting their turn, until `signal` aborts: then null. */
export async function finishUnlessAborted<T>(steps: Steps<T>, signal: AbortSignal): Promise<T | null> {
  try {
    for (;;) {
      const { done, value } = steps.next();
      if (done === true) return value;
      await Bun.sleep(0);
      if (signal.aborted) return null;
    }
  } finally {
    steps.return(undefined as never);
  }
}

/** Lets clients, keys and signals be heard before the next step; takes microseconds, where a timer takes half a millisecond. */
export const eventsTurn = () => new Promise<void>((done) => setImmediate(done));
