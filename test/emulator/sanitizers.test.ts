// Every function of the interface, on odd and even shapes (driver.cpp), with its kernels under AddressSanitizer and
// UndefinedBehaviorSanitizer, and under ThreadSanitizer: no report. Minutes of compiling, so only where
// NEFTUNE_TEST_SANITIZERS is set (CI sets it).

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { cudaSources } from "../../build/cuda.ts";
import { buildEmulatedProgram, runEmulated } from "./support.ts";

const asked = process.env.NEFTUNE_TEST_SANITIZERS !== undefined;
const skipped = asked ? "" : " (skipped: NEFTUNE_TEST_SANITIZERS is not set)";
const minutes = 60_000;

const header = readFileSync(join(import.meta.dir, "../../kernels/neftune.h"), "utf8");
const functions = Array.from(header.matchAll(/^NT_API .*?(nt_\w+)\(/gm), (match) => match[1] as string);
const driver = join(import.meta.dir, "driver.cpp");
/**
 * The driver's groups, each of which is a process: ThreadSanitizer's barriers take time by the square of the most threads
 * that any block has had.
 */
const groups = Array.from(
  readFileSync(driver, "utf8").matchAll(/^ {4}\{"(\w+)", \w+\},$/gm),
  (match) => match[1]!,
);

describe("kernels under sanitizers", () => {
  for (const [build, device, seed] of [
    ["address", "90", 0],
    ["address", "86", 1],
    ["thread", "90", 0],
    ["thread", "86", 2],
  ] as const) {
    test.skipIf(!asked)(
      `${build} build, device ${device}, seed ${seed}${skipped}`,
      async () => {
        const program = await buildEmulatedProgram("driver", build, [driver, ...cudaSources()]);
        const called = new Set<string>();
        for (const group of groups) {
          const { status, text } = await runEmulated(program, [group], seed, {
            NEFTUNE_EMULATOR_DEVICE: device,
          });
          const lines = text.split("\n").filter((line) => line !== "");
          const unexpected = lines.filter((line) => !functions.includes(line));
          expect(unexpected.slice(0, 40).join("\n"), group).toBe("");
          expect(status, group).toBe(0);
          for (const line of lines) called.add(line);
        }
        expect(functions.filter((name) => !called.has(name))).toEqual([]);
      },
      40 * minutes,
    );
  }
});
