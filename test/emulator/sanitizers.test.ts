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
        const { status, text } = await runEmulated(program, [], seed, { NEFTUNE_EMULATOR_DEVICE: device });
        const lines = text.split("\n").filter((line) => line !== "");
        const unexpected = lines.filter((line) => !functions.includes(line));
        expect(unexpected.slice(0, 40).join("\n")).toBe("");
        expect(status).toBe(0);
        expect(functions.filter((name) => !lines.includes(name))).toEqual([]);
      },
      40 * minutes,
    );
  }
});
