// Several transfers at a time that succeed or end together.

import { InterruptedError } from "../../errors.ts";

/** Runs `work` on `most` items at a time; the first failure ends the others, and is thrown when they have ended. */
export async function inParallel<T, R>(
  items: readonly T[],
  most: number,
  group: AbortController,
  work: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  const failures: unknown[] = [];
  let next = 0;
  const worker = async () => {
    while (next < items.length && failures.length === 0) {
      const i = next++;
      try {
        results[i] = await work(items[i]!);
      } catch (error) {
        failures.push(error);
        group.abort();
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(most, items.length) }, worker));
  // Those that the first failure ended say only that they were stopped.
  const first = failures.find((error) => !(error instanceof InterruptedError)) ?? failures[0];
  if (first !== undefined) throw first;
  return results;
}
