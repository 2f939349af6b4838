import { expect, test } from "bun:test";
import { addressSpaceLimit, expectAddressSpace, limitHint } from "../../src/cli/process/address-space.ts";
import { NeftuneError, UsageError } from "../../src/errors.ts";

const limits = (value: string) =>
  `Limit                     Soft Limit           Hard Limit           Units\nMax stack size            8388608              unlimited            bytes\nMax address space         ${value.padEnd(20)} unlimited            bytes\n`;

test("the limit is read; unlimited, and a system without /proc, are none", () => {
  expect(addressSpaceLimit(limits("1024000000"))).toBe(1_024_000_000);
  expect(addressSpaceLimit(limits("unlimited"))).toBeNull();
  expect(addressSpaceLimit("")).toBeNull();
});

test("commands that compute are refused under too low a limit, others are not", () => {
  const low = 1_024_000_000;
  for (const command of ["train", "eval", "generate", "merge", "quantize", "init", "bench", "doctor", "demo"])
    expect(() => expectAddressSpace(command, low)).toThrow(
      `address space is limited to 977 MiB (ulimit -v 1000000); ${command} needs 3.0 GiB and the model's size`,
    );
  for (const command of ["inspect", "preview", "models"]) expectAddressSpace(command, low);
  expectAddressSpace("train", 4 * 2 ** 30);
  expectAddressSpace("train", null);
});

test("an error that the limit may have caused says so", () => {
  const limit = 4 * 2 ** 30;
  for (const error of [
    new RangeError("Out of memory"),
    new Error("Failed to spawn worker thread"),
    new NeftuneError("out-of-memory", "x"),
    new NeftuneError("native", "x"),
  ]) {
    expect(limitHint(error, limit)).toContain("address space is limited to 4.0 GiB (ulimit -v)");
    expect(limitHint(error, null)).toBe("");
  }
  for (const error of [new UsageError("x"), new NeftuneError("data", "x")])
    expect(limitHint(error, limit)).toBe("");
});
