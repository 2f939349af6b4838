// Which of a step's micro-batches a rank has.

import { describe, expect, test } from "bun:test";
import { ownOf } from "../../src/train/team.ts";

const batches = [0, 1, 2, 3, 4, 5, 6];
/** Leaves out 2 and 6: there is less of what is merged. */
const merge = (dealt: readonly number[]) => dealt.filter((batch) => batch % 4 !== 2);

describe("of three ranks", () => {
  const all = (isInStep: boolean, merged = merge) =>
    [0, 1, 2].map((rank) => ownOf({ size: 3, rank }, batches, merged, isInStep));

  test("dealt in turn", () => {
    expect(all(false, (dealt) => [...dealt])).toEqual([
      [0, 3, 6],
      [1, 4],
      [2, 5],
    ]);
  });

  test("merged, each for itself", () => {
    expect(all(false)).toEqual([[0, 3], [1, 4], [5]]);
  });

  test("in step, as many each", () => {
    expect(all(true)).toEqual([
      [0, 3],
      [1, 4],
      [5, null],
    ]);
  });

  test("what other ranks have is merged only in step", () => {
    const seen: (readonly number[])[] = [];
    const watched = (dealt: readonly number[]) => {
      seen.push(dealt);
      return dealt;
    };
    ownOf({ size: 3, rank: 1 }, batches, watched, false);
    expect(seen).toEqual([[1, 4]]);
  });
});
