// Samples held out for evaluation.

import { UsageError } from "../errors.ts";
import type { Dataset } from "./dataset.ts";
import { holdoutOrder } from "./philox.ts";
import { firstEqual } from "./twins.ts";

export interface Holdout {
  train: Dataset;
  held: Dataset;
  /** Rows that were asked for: more or fewer than are held out where rows have equal tokens. */
  asked: number;
  /** Rows that are held out, those beyond `most` included. */
  count: number;
}

/**
 * Holds samples out for evaluation: a share of the rows (below 1) or a count. Both parts keep the file's order. Rows
 * with equal tokens stay on one side, so that nothing that is evaluated was trained on; the number held out is then the
 * nearest to what was asked. Of a row that a weight repeats none is trained on where it is held out, and it is
 * evaluated once. `held` has at most `most` of the rows held out, drawn like these.
 */
export function splitHoldout(
  dataset: Dataset,
  amount: number,
  seed: number | bigint,
  most = Number.POSITIVE_INFINITY,
): Holdout {
  const rows = dataset.distinct();
  const { length } = rows;
  const asked = amount < 1 ? Math.round(amount * length) : amount;
  if (!(amount > 0) || !Number.isInteger(asked) || asked < 1 || asked >= length) {
    throw new UsageError(
      `--eval-split ${amount}: expected a share between 0 and 1 or a count that leaves samples on both sides, of ${length}`,
    );
  }
  const groups = firstEqual(dataset.hashesOf(rows, "idHashes"));
  const drawn = drawGroups(groups, holdoutOrder(length, seed), asked);
  if (drawn === null) {
    throw new UsageError(
      `--eval-split ${amount}: all ${length} samples have the same tokens, and none can be held out from the others`,
    );
  }
  const samplesOf = (places: Int32Array) =>
    places
      .slice()
      .sort()
      .map((place) => rows[place]!);
  const name = `${amount} ${seed}`;
  const held = samplesOf(drawn);
  const some = drawn.length > most ? samplesOf(drawn.subarray(0, most)) : held;
  return {
    train: dataset.select(dataset.samplesExcept(held), `train ${name}`),
    held: dataset.select(some, some === held ? `held ${name}` : `held ${name}, ${most}`),
    asked,
    count: drawn.length,
  };
}

/**
 * Whole groups of rows, in the order drawn, as near to `count` rows in all as their sizes allow, and never all;
 * `groups` has each row's group by its first row. Null where there is one group alone.
 */
function drawGroups(groups: Int32Array, order: Int32Array, count: number): Int32Array | null {
  const sizes = new Int32Array(groups.length);
  for (const group of groups) sizes[group]!++;
  // every group at the place of its row that is drawn first
  const drawn = new Int32Array(groups.length);
  const seen = new Uint8Array(groups.length);
  let [number, left] = [0, count];
  const taken = new Uint8Array(groups.length);
  for (const row of order) {
    const group = groups[row]!;
    if (seen[group] === 1) continue;
    seen[group] = 1;
    drawn[number++] = group;
    if (sizes[group]! > left) continue;
    taken[group] = 1;
    left -= sizes[group]!;
  }
  if (number === 1) return null;
  if (left > 0) {
    const wanted = nearestSum(sizes, count);
    taken.fill(0);
    for (const group of drawn.subarray(0, number)) {
      const more = wanted.get(sizes[group]!) ?? 0;
      if (more > 0) taken[group] = 1;
      wanted.set(sizes[group]!, more - 1);
    }
  }
  return order.filter((row) => taken[groups[row]!] === 1);
}

/**
 * How many groups of which size make up the sum nearest to `count`, the smaller of two, leaving at least one group.
 * Sizes of 0 are no groups. Subset sum by size: `reached[s]` is the largest size in a
 * sum s, made of as many small ones as it can be.
 */
function nearestSum(sizes: Int32Array, count: number): Map<number, number> {
  const kinds = new Map<number, number>();
  for (const size of sizes) if (size > 0) kinds.set(size, (kinds.get(size) ?? 0) + 1);
  const ascending = [...kinds.keys()].sort((a, b) => a - b);
  const all = sizes.reduce((sum, size) => sum + size, 0);
  const most = Math.min(count + ascending.at(-1)!, all - ascending[0]!);
  const reached = new Int32Array(most + 1);
  reached[0] = -1;
  const used = new Int32Array(most + 1);
  for (const size of ascending) {
    const available = kinds.get(size)!;
    used.fill(0);
    for (let sum = size; sum <= most; sum++) {
      if (reached[sum] !== 0 || reached[sum - size] === 0 || used[sum - size]! >= available) continue;
      reached[sum] = size;
      used[sum] = used[sum - size]! + 1;
    }
  }
  let best = 0;
  for (let sum = 1; sum <= most; sum++) {
    if (reached[sum] !== 0 && (best === 0 || Math.abs(sum - count) < Math.abs(best - count))) best = sum;
  }
  const wanted = new Map<number, number>();
  for (let sum = best; sum > 0; sum -= reached[sum]!) {
    wanted.set(reached[sum]!, (wanted.get(reached[sum]!) ?? 0) + 1);
  }
  return wanted;
}
