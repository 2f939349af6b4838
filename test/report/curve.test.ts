import { describe, expect, test } from "bun:test";
import { type Curve, exponentialMean, thin, withoutLevels } from "../../src/report/curve.ts";
import { noiseAt } from "./support.ts";

const long = (points: number, value: (i: number) => number | null): Curve => ({
  x: Array.from({ length: points }, (_, i) => i + 1),
  y: Array.from({ length: points }, (_, i) => value(i)),
});

describe("thinning", () => {
  test.each([10_000, 999, 201])("%d points: first, last and both extremes of every bucket stay", (points) => {
    const curve = long(points, noiseAt);
    const { x, y } = thin(curve, 100);
    expect(x.length).toBeLessThanOrEqual(202);
    expect([x[0], x.at(-1)]).toEqual([1, points]);
    expect(x).toEqual([...x].sort((a, b) => a - b));
    for (const pick of [Math.min, Math.max])
      expect(pick(...(y as number[]))).toBe(pick(...(curve.y as number[])));
    for (const [i, step] of x.entries()) expect(y[i]).toBe(noiseAt(step - 1));
  });

  test("a spike of one step stays", () => {
    const { x, y } = thin(
      long(10_000, (i) => (i === 7777 ? 900 : 1)),
      50,
    );
    expect(y[x.indexOf(7778)]).toBe(900);
  });

  test("a gap stays a gap, as one point", () => {
    const { y } = thin(
      long(1000, (i) => (i >= 400 && i < 600 ? null : i)),
      20,
    );
    expect(y.filter((value) => value === null)).toHaveLength(1);
    expect(y.indexOf(null)).toBeGreaterThan(0);
  });

  test("a short curve is left as it is", () => {
    const curve = long(40, noiseAt);
    expect(thin(curve, 20)).toEqual(curve);
  });

  test("inner points of level stretches go", () => {
    expect(withoutLevels({ x: [1, 2, 3, 4, 5], y: [7, 7, 7, 8, 8] })).toEqual({
      x: [1, 3, 4, 5],
      y: [7, 7, 8, 8],
    });
  });
});

describe("exponential mean", () => {
  test("the first point is itself; a constant stays one", () => {
    for (const value of exponentialMean({ x: [1, 2, 3], y: [5, 5, 5] }, 10).y)
      expect(value).toBeCloseTo(5, 12);
  });

  test("by hand: span 3, weight 1/2", () => {
    // 1; (0.5·1 + 1·0.5·…): sums 0.5, 1.75, 2.875 over weights 0.5, 0.75, 0.875
    const { y } = exponentialMean({ x: [1, 2, 3], y: [1, 3, 4] }, 3);
    expect(y[0]).toBeCloseTo(1, 12);
    expect(y[1]).toBeCloseTo(1.75 / 0.75, 12);
    expect(y[2]).toBeCloseTo(2.875 / 0.875, 12);
  });

  test("points without a value are gaps, and do not change the mean after them", () => {
    const { y } = exponentialMean({ x: [1, 2, 3, 4, 5], y: [null, 1, null, 3, null] }, 3);
    expect([y[0], y[2], y[4]]).toEqual([null, null, null]);
    expect(y[1]).toBeCloseTo(1, 12);
    expect(y[3]).toBeCloseTo(1.75 / 0.75, 12);
  });
});
