import { expect, test } from "bun:test";
import { int64Words } from "../../src/native/ops/words.ts";

test("64-bit words are those of BigInt", () => {
  const values = [0, 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 0x7f12_3456_789a, Number.MAX_SAFE_INTEGER];
  expect(int64Words(values)).toEqual(BigInt64Array.from(values, BigInt));
});
