import { describe, expect, test } from "bun:test";
import { stepAxis, valueAxis } from "../../src/report/axis.ts";

const labels = (axis: { ticks: readonly { label: string }[] }) => axis.ticks.map(({ label }) => label);

describe("ticks are round and inside", () => {
  test.each([
    [
      [1, 300],
      ["100", "200", "300"],
    ],
    [
      [1, 10_000],
      ["2,000", "4,000", "6,000", "8,000", "10,000"],
    ],
    [
      [1, 3],
      ["1", "2", "3"],
    ],
    [[7], ["6", "7", "8"]],
    [
      [500, 501],
      ["500", "501"],
    ],
  ])("steps %j: %j", (steps, wanted) => expect(labels(stepAxis(steps))).toEqual(wanted));

  test.each([
    [[1.1, 3.2], {}, ["1.0", "1.5", "2.0", "2.5", "3.0"]],
    [[0, 2e-4], { fromZero: true }, ["0", "5e-5", "1e-4", "1.5e-4", "2e-4"]],
    [[5.2, 5.2], { fromZero: true }, ["0", "2", "4"]],
    [[9000, 9900], { fromZero: true }, ["0", "2,000", "4,000", "6,000", "8,000"]],
    [[0.01, 50], { mayBeLog: true }, ["0.01", "0.1", "1", "10"]],
    [[0.5, 5], { mayBeLog: true }, ["2", "4"]],
    [[-2, 3], {}, ["-2", "0", "2"]],
    [[1e-9, 1], { mayBeLog: true }, ["1e-8", "1e-6", "1e-4", "0.01", "1"]],
  ] as const)("values %j %j: %j", (values, options, wanted) =>
    expect(labels(valueAxis(values, options))).toEqual([...wanted]),
  );

  test.each([1e-12, 0.37, 1, 12.5, 1e9])("two to six of them for any span: %d", (span) => {
    for (let k = 0; k < 50; k++) {
      const low = span * (k - 25) * 0.731;
      const axis = valueAxis([low, low + span * (1 + k / 7)]);
      expect(axis.ticks.length).toBeGreaterThanOrEqual(2);
      expect(axis.ticks.length).toBeLessThanOrEqual(7);
      for (const { at } of axis.ticks) {
        expect(at).toBeGreaterThanOrEqual(axis.min - 1e-9 * Math.abs(axis.min));
        expect(at).toBeLessThanOrEqual(axis.max + 1e-9 * Math.abs(axis.max));
      }
      expect(new Set(labels(axis)).size).toBe(axis.ticks.length);
    }
  });

  test("no values at all", () => expect(valueAxis([]).ticks.length).toBeGreaterThan(1));
});
