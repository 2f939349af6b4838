// Every function of the interface, on odd and even shapes (driver.cpp), with its kernels under AddressSanitizer and
// UndefinedBehaviorSanitizer, and under ThreadSanitizer: no report. Minutes of compiling, so only where
// NEFTUNE_TEST_SANITIZERS is set (CI sets it).

import { beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { cudaSources } from "../../build/cuda.ts";
import { buildEmulatedProgram, runEmulated } from "./support.ts";

const asked = process.env.NEFTUNE_TEST_SANITIZERS !== undefined;
const skipped = asked ? "" : " (skipped: NEFTUNE_TEST_SANITIZERS is not set)";
const minutes = 60_000;

const header = readFileSync(join(import.meta.dir, "../../kernels/neftune.h"), "utf8");
const functions = Array.from(header.matchAll(/^NT_API .*?(nt_\w+)\(/gm), (match) => match[1]).sort();
const driver = join(import.meta.dir, "driver.cpp");
const groups = Array.from(
  readFileSync(driver, "utf8").matchAll(/\{"(\w+)", \w+\}/g),
  (match) => match[1] as string,
);

describe.skipIf(!asked)("kernels under sanitizers", () => {
  for (const [build, settings] of [
    ["address", { seed: 0, device: "90" }],
    ["address", { seed: 1, device: "86" }],
    ["thread", { seed: 0, device: "90" }],
    ["thread", { seed: 2, device: "86" }],
  ] as const) {
    const { seed, device } = settings;
    describe(`${build} build, device ${device}, seed ${seed}${skipped}`, () => {
      let program = "";
      const called = new Set<string>();
      beforeAll(async () => {
        program = await buildEmulatedProgram("driver", build, [driver, ...cudaSources()]);
      }, 30 * minutes);

      for (const group of groups) {
        test(
          group,
          async () => {
            const { status, text } = await runEmulated(program, [group], seed, {
              NEFTUNE_EMULATOR_DEVICE: device,
            });
            const lines = text.split("\n");
            const unexpected = lines.filter((line) => line !== "" && !functions.includes(line));
            expect(unexpected.slice(0, 40).join("\n")).toBe("");
            expect(status).toBe(0);
            for (const line of lines) called.add(line);
          },
          10 * minutes,
        );
      }

      test("every function was called", () => {
        expect(functions.filter((name) => !called.has(name as string))).toEqual([]);
      });
    });
  }
});
