// Several data sets as one: how much of each.

import { NeftuneError, UsageError } from "../errors.ts";
import { mixOrder } from "./philox.ts";

/** A --dataset as it was given: what it names, and its share. */
export interface WeightedName {
  name: string;
  weight: number;
}

/**
 * `name` or `name:weight`. A weight is how often the data set's samples are used in an epoch: 0.3 is three tenths of
 * them, 2 is each twice. Throws UsageError where it is not above 0.
 */
export function parseWeighted(text: string, exists: (path: string) => boolean): WeightedName {
  const match = /^(.+):([+-]?[\d.]+(?:e[+-]?\d+)?)$/i.exec(text);
  if (match === null || exists(text)) return { name: text, weight: 1 };
  const weight = Number(match[2]);
  if (!(weight > 0 && weight <= MOST_WEIGHT)) {
    throw new UsageError(
      `--dataset ${text}: expected a weight above 0 and at most ${MOST_WEIGHT} after the colon, got ${match[2]}`,
    );
  }
  return { name: match[1]!, weight };
}

const MOST_WEIGHT = 1000;

/**
 * The samples that a data set of `length` brings to a mixture, by their numbers: all of them as often as `weight`
 * has whole parts, then a part drawn by the seed. Each pass is in the file's order. `place` is the data set's place
 * among those mixed, so that two of one length are drawn from independently.
 */
export function weightedIndices(length: number, weight: number, seed: number, place: number): Int32Array {
  const whole = Math.floor(weight);
  const part = Math.round((weight - whole) * length);
  const total = whole * length + part;
  if (total === 0) {
    throw new NeftuneError(
      "dataset",
      `a weight of ${weight} leaves none of ${length} samples; give a larger one`,
    );
  }
  const indices = new Int32Array(total);
  for (let i = 0; i < whole * length; i++) indices[i] = i % length;
  if (part > 0) indices.set(mixOrder(length, seed, place).slice(0, part).sort(), whole * length);
  return indices;
}
