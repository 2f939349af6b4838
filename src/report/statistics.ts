// Mean, deviation, quantiles, and the paired bootstrap that says how sure a difference of losses is.

/** The arithmetic mean; NaN of nothing. */
export function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** The mean that a run's training loss is given as is over the last tenth of its steps, within these. */
const FEWEST_CLOSING = 5;
export const MOST_CLOSING = 100;

/** The losses of the last tenth of so many steps, at least 5 and at most 100; those that are not finite are left out. */
export function closingLosses(losses: readonly (number | null)[], steps: number): number[] {
  const count = Math.min(MOST_CLOSING, Math.max(FEWEST_CLOSING, Math.round(steps / 10)));
  return losses.slice(-count).filter((loss) => loss !== null);
}

/** The sample standard deviation (divided by n − 1); null of fewer than two values. */
export function deviationOf(values: readonly number[]): number | null {
  if (values.length < 2) return null;
  const mean = meanOf(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1));
}

/** Values of a group, summed up. */
export interface Spread {
  mean: number;
  /** Of the sample: divided by n − 1. */
  deviation: number;
  n: number; // at least 2
}

/** The 95 % interval of b's mean minus a's by Welch's t-test, as scipy.stats.ttest_ind(b, a, equal_var=False) gives it. */
export function welchInterval(a: Spread, b: Spread): Interval {
  const difference = b.mean - a.mean;
  const [u, v] = [a.deviation ** 2 / a.n, b.deviation ** 2 / b.n];
  if (u + v === 0) return { low: difference, high: difference };
  const freedom = (u + v) ** 2 / (u ** 2 / (a.n - 1) + v ** 2 / (b.n - 1));
  const half = studentQuantile(freedom) * Math.sqrt(u + v);
  return { low: difference - half, high: difference + half };
}

/** Steps of the integral below: five digits of the quantile. */
const INTEGRAL_STEPS = 20_000;

/**
 * What Student's t stays within, either way, with a chance of 95 %; `freedom` of at least 1. With t = √freedom · tan θ, the
 * chance of |t| below a bound is the integral of cos^(freedom − 1) up to its θ, as a share of that up to π/2.
 */
function studentQuantile(freedom: number): number {
  const step = Math.PI / 2 / INTEGRAL_STEPS;
  // Midpoints: the power has no end at π/2 where freedom is below 1.
  const parts = Float64Array.from(
    { length: INTEGRAL_STEPS },
    (_, i) => Math.cos((i + 0.5) * step) ** (freedom - 1),
  );
  let rest = 0.95 * parts.reduce((sum, part) => sum + part, 0);
  const at = parts.findIndex((part) => {
    rest -= part;
    return rest <= 0;
  });
  return Math.sqrt(freedom) * Math.tan((at + 1 + rest / parts[at]!) * step);
}

/** The quantile of sorted values, linear between neighbors, as NumPy's default. */
export function quantileOf(sorted: ArrayLike<number>, share: number): number {
  const at = share * (sorted.length - 1);
  const below = Math.floor(at);
  const low = sorted[below]!;
  const high = sorted[Math.min(below + 1, sorted.length - 1)]!;
  return low + (at - below) * (high - low);
}

/** An evaluation, sample by sample. */
export interface SampleLosses {
  /** Mean cross-entropy over a sample's own target tokens; what a sample without any has does not count. */
  losses: Float64Array; // [samples]
  targetTokens: Uint32Array; // [samples]
}

/** True where two evaluations saw the same samples, as far as their numbers of target tokens tell. */
export function arePaired(a: SampleLosses, b: SampleLosses): boolean {
  return (
    a.targetTokens.length === b.targetTokens.length &&
    a.targetTokens.every((count, i) => count === b.targetTokens[i])
  );
}

/** The loss of an evaluation: over all target tokens. */
export function lossOf({ losses, targetTokens }: SampleLosses): number {
  let [sum, tokens] = [0, 0];
  for (const [i, count] of targetTokens.entries()) {
    if (count === 0) continue;
    sum += losses[i]! * count;
    tokens += count;
  }
  return sum / tokens;
}

export interface Interval {
  low: number;
  high: number;
}

export interface Bootstrap {
  /** Of each evaluation's own loss. */
  losses: Interval[];
  /** Of its loss minus the first one's; of the first itself 0 to 0. */
  differences: Interval[];
  resamples: number;
}

const SEED = 0x6e656674;
const MOST_RESAMPLES = 10_000;
const FEWEST_RESAMPLES = 1000;
/** Samples drawn in all, times evaluations: what takes a few seconds at most. */
const WORK = 2e8;

/** How many resamples are drawn for so much data: 10,000, fewer where that would take seconds. */
export function resamplesFor(samples: number, evaluations: number): number {
  const affordable = Math.floor(WORK / Math.max(1, samples * evaluations));
  return Math.min(MOST_RESAMPLES, Math.max(FEWEST_RESAMPLES, affordable));
}

/**
 * 95 % percentile intervals by the paired bootstrap (Efron and Tibshirani 1993, chapters 13 and 16): samples are drawn
 * with replacement, the same ones for every evaluation, and each time the losses over all target tokens are compared.
 * The evaluations must be paired (arePaired). `draw` gives an index below n; the default always gives the same ones.
 */
export function pairedBootstrap(
  evaluations: readonly SampleLosses[],
  resamples = resamplesFor(evaluations[0]?.losses.length ?? 0, evaluations.length),
  draw: (n: number) => number = drawer(SEED),
): Bootstrap {
  const { targetTokens } = evaluations[0]!;
  const n = targetTokens.length;
  // A sample's loss summed over its targets, by sample, then evaluation: what is read together lies together.
  const count = evaluations.length;
  const sums = new Float64Array(n * count);
  for (const [e, { losses }] of evaluations.entries())
    for (let i = 0; i < n; i++)
      sums[i * count + e] = targetTokens[i] === 0 ? 0 : losses[i]! * targetTokens[i]!;

  const losses = evaluations.map(() => new Float64Array(resamples));
  const differences = evaluations.map(() => new Float64Array(resamples));
  const total = new Float64Array(count);
  for (let r = 0; r < resamples; r++) {
    total.fill(0);
    let tokens = 0;
    for (let k = 0; k < n; k++) {
      const i = draw(n);
      tokens += targetTokens[i]!;
      for (let e = 0; e < count; e++) total[e]! += sums[i * count + e]!;
    }
    for (let e = 0; e < count; e++) {
      losses[e]![r] = total[e]! / tokens;
      differences[e]![r] = (total[e]! - total[0]!) / tokens;
    }
  }
  return { losses: losses.map(intervalOf), differences: differences.map(intervalOf), resamples };
}

/** The middle 95 % of the values. Resamples without a target token are left out. */
function intervalOf(values: Float64Array): Interval {
  const sorted = values.filter(Number.isFinite).sort();
  return { low: quantileOf(sorted, 0.025), high: quantileOf(sorted, 0.975) };
}

/** Indices below n from Marsaglia's xorshift128; a bias below n / 2^32 does not matter here. */
function drawer(seed: number): (n: number) => number {
  let [a, b, c, d] = [seed, 0x9e3779b9, 0x243f6a88, 0xb7e15162];
  return (n) => {
    const t = a ^ (a << 11);
    a = b;
    b = c;
    c = d;
    d = d ^ (d >>> 19) ^ (t ^ (t >>> 8));
    return Math.floor(((d >>> 0) / 0x100000000) * n);
  };
}
