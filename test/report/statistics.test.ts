// Against NumPy and SciPy (test/golden/report/statistics.json says which), and by hand.

import { describe, expect, test } from "bun:test";
import {
  arePaired,
  closingLosses,
  deviationOf,
  lossOf,
  meanOf,
  pairedBootstrap,
  quantileOf,
  resamplesFor,
  type SampleLosses,
  welchInterval,
} from "../../src/report/statistics.ts";
import golden from "../golden/report/statistics.json" with { type: "json" };

const evaluations = golden.losses.map((losses): SampleLosses => {
  return { losses: Float64Array.from(losses), targetTokens: Uint32Array.from(golden.target_tokens) };
});

test("mean, sample deviation and quantiles are NumPy's", () => {
  expect(meanOf(golden.values)).toBeCloseTo(golden.mean, 12);
  expect(deviationOf(golden.values)).toBeCloseTo(golden.deviation, 12);
  expect(deviationOf([1])).toBeNull();
  const sorted = golden.values.toSorted((a, b) => a - b);
  for (const [share, value] of Object.entries(golden.quantiles))
    expect(quantileOf(sorted, Number(share))).toBeCloseTo(value, 12);
});

test("closing losses: the last tenth, at least 5 and at most 100, without those that are not finite", () => {
  const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1);
  const firstOf = (n: number) => closingLosses(upTo(n), n)[0];
  expect([3, 5, 6, 50, 60, 990, 1000, 1010, 5000].map(firstOf)).toEqual([
    1, 1, 2, 46, 55, 892, 901, 911, 4901,
  ]);
  expect(closingLosses([7, null, 3, 4, null, 6], 6)).toEqual([3, 4, 6]);
  expect(closingLosses(upTo(100), 5000)).toEqual(upTo(100)); // what was before is not kept
});

// scipy 1.17.1: ttest_ind(b, a, equal_var=False).confidence_interval()
test.each([
  [[1.5, 1.52, 1.51], [1.4, 1.41, 1.4], -0.12715219286475468, -0.08618114046857914],
  [[0.806, 0.838], [0.862, 0.87], -0.11794703125590944, 0.2059470312559093],
  [[1, 2, 4, 8], [3, 3.5], -5.356273865820844, 4.356273865820844],
  [[1, 1.1], [5, 5.1, 5.2, 5.3, 5], 3.852441641163878, 4.287558358836122],
])("the interval of the difference of means of %j and %j is SciPy's", (a, b, low, high) => {
  const spread = (values: number[]) => {
    return { mean: meanOf(values), deviation: deviationOf(values)!, n: values.length };
  };
  const got = welchInterval(spread(a), spread(b));
  expect(Math.abs(got.low - low)).toBeLessThan(1e-4 * (high - low));
  expect(Math.abs(got.high - high)).toBeLessThan(1e-4 * (high - low));
});

describe("paired bootstrap", () => {
  test("for the same draws, NumPy's numbers", () => {
    const draws = golden.draws.flat();
    let next = 0;
    const { losses, differences } = pairedBootstrap(evaluations, golden.draws.length, () => draws[next++]!);
    expect(next).toBe(draws.length);
    for (const [i, { loss, difference }] of golden.fixed.entries()) {
      expect(losses[i]!.low).toBeCloseTo(loss[0]!, 12);
      expect(losses[i]!.high).toBeCloseTo(loss[1]!, 12);
      expect(differences[i]!.low).toBeCloseTo(difference[0]!, 12);
      expect(differences[i]!.high).toBeCloseTo(difference[1]!, 12);
    }
  });

  test("for its own draws, scipy.stats.bootstrap's intervals but for the luck of the draw", () => {
    const { losses, differences } = pairedBootstrap(evaluations, 40_000);
    const near = (got: { low: number; high: number }, [low, high]: number[]) => {
      const luck = 0.02 * (high! - low!);
      expect(Math.abs(got.low - low!)).toBeLessThan(luck);
      expect(Math.abs(got.high - high!)).toBeLessThan(luck);
    };
    for (const [i, { loss, difference }] of golden.bootstrap.entries()) {
      near(losses[i]!, loss);
      if (difference !== undefined) near(differences[i]!, difference);
    }
  });

  test("the same twice, and nothing of the first minus itself", () => {
    const once = pairedBootstrap(evaluations, 500);
    expect(pairedBootstrap(evaluations, 500)).toEqual(once);
    expect(once.differences[0]).toEqual({ low: 0, high: 0 });
  });

  test("the loss is over all target tokens; samples without any do not count", () => {
    for (const [i, evaluation] of evaluations.entries())
      expect(lossOf(evaluation)).toBeCloseTo(golden.total[i]!, 12);
    const withNothing = { losses: Float64Array.of(Number.NaN, 2), targetTokens: Uint32Array.of(0, 3) };
    expect(lossOf(withNothing)).toBe(2);
    expect(pairedBootstrap([withNothing], 200).losses[0]).toEqual({ low: 2, high: 2 });
  });

  test("other samples are not paired", () => {
    const [first] = evaluations;
    expect(arePaired(first!, evaluations[1]!)).toBe(true);
    const other = first!.targetTokens.map((count, i) => (i === 5 ? count + 1 : count));
    expect(arePaired(first!, { ...first!, targetTokens: other })).toBe(false);
    expect(arePaired(first!, { ...first!, targetTokens: other.slice(1) })).toBe(false);
  });

  test("10,000 resamples where they take little time, never fewer than 1,000", () => {
    expect(resamplesFor(500, 2)).toBe(10_000);
    expect(resamplesFor(5000, 10)).toBe(4000);
    expect(resamplesFor(1e6, 10)).toBe(1000);
  });
});
