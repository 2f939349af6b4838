// How much a text repeats itself, as section 5.2 of NEFTune (arXiv 2310.05914) measures it.

import { countNgrams } from "./words.ts";

/** What log-diversity is at most: that of a text that repeats nothing, whose logarithm would be infinite. */
const MOST_LOG_DIVERSITY = 20;

/**
 * The share of a text's n-grams that repeat an earlier one: 1 − distinct n-grams / all n-grams (Su et al. 2022,
 * arXiv 2202.06417, rep-n; here a fraction). Null for a text of fewer than n words.
 */
export function repetitionRate(words: readonly string[], n: number): number | null {
  const all = words.length - n + 1;
  return all < 1 ? null : 1 - countNgrams(words, n).size / all;
}

/**
 * −log(1 − Π (1 − rep-n)) over n = 2, 3, 4: the diversity of Su et al. 2022 and Li et al. 2022 (arXiv 2210.15097),
 * on the scale of Kirchenbauer et al. 2023 (arXiv 2306.04634), whose code bounds it by 20. The natural logarithm; the
 * more, the less repetition. Null for a text of fewer than four words.
 */
export function logDiversity(words: readonly string[]): number | null {
  let diversity = 1;
  for (const n of [2, 3, 4]) {
    const rate = repetitionRate(words, n);
    if (rate === null) return null;
    diversity *= 1 - rate;
  }
  return -Math.log(Math.max(1 - diversity, Math.exp(-MOST_LOG_DIVERSITY)));
}
