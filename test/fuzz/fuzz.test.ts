// The fuzzer finds what it is for, and what it damages is of use to begin with.

import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { scratchFolder } from "../scratch.ts";
import { commandLine, filesOf, layOut, makeCase } from "./case.ts";
import { fuzz, type Report } from "./fuzz.ts";
import { kinds } from "./kinds.ts";
import { mutateJson } from "./mutate-json.ts";
import { defaultLimits } from "./outcome.ts";
import type { Random } from "./random.ts";
import { Runner } from "./runner.ts";
import { makeSeeds } from "./seeds.ts";

const scratch = scratchFolder();

describe("planted faults", () => {
  const limits = { seconds: 0.5, bytes: 2 ** 28, diskBytes: 2 ** 29 };
  const seeds = join(scratch, "planted");
  mkdirSync(seeds);
  writeFileSync(join(seeds, "input.json"), '{"a": 1}');
  const failures = join(scratch, "failures");

  test.each([
    ["hang", "takes more than 0.5 s"],
    ["wait", "takes more than 0.5 s"],
    ["TypeError", "inner error"],
    ["trace", "inner error"],
    ["memory", "GiB of memory"],
    ["signal", "ended by SIGSEGV"],
    ["status", "exit status 3"],
    ["silence", "exit status 1 without a message"],
    ["escape", "control character U+001b"],
    ["leftover", "exit status 1, and .out.partial is left"],
  ])(
    "%s is found, in a shared process and in one of its own, and kept",
    async (fault, complaint) => {
      const runner = new Runner(join(import.meta.dir, "planted.ts"), scratch, limits);
      const kind = {
        name: fault,
        files: ["input.json"],
        mutate: (bytes: Uint8Array, random: Random) =>
          Buffer.from(mutateJson(Buffer.from(bytes).toString(), random)),
        commands: (file: string) => [[fault, file]],
      };
      const common = { runner, limits, scratch, executable: null, note: () => {} };
      const goesOn = ({ cases, findings }: Report) => cases < 12 && findings.length < 2;
      const report = await fuzz({ ...common, kinds: [kind], seeds, failures, first: 1, goesOn });
      const [finding] = report.findings;
      expect(finding?.complaint).toContain(complaint);
      expect(report.findings.length).toBeLessThanOrEqual(3);
      expect(report.kinds.get(fault)!.failed).toBeGreaterThan(1);
      expect(readFileSync(join(finding!.folder, "FAILURE.txt"), "utf8")).toContain(
        `neftune ${fault} input.json`,
      );
      // The input that is kept fails again, and a whole one does not.
      const again = await runner.runAlone(finding!.folder, [fault, "input.json"], null);
      expect(again.status).not.toBe(0);
      expect((await runner.runAlone(seeds, [fault, "input.json"], null)).status).toBe(0);
      runner.close();
    },
    60_000,
  );

  test("a program without faults has none", async () => {
    const runner = new Runner(join(import.meta.dir, "planted.ts"), scratch, limits);
    const kind = {
      name: "none",
      files: ["input.json"],
      mutate: () => Buffer.from("[]"),
      commands: () => [["none", "input.json"]],
    };
    const common = { runner, limits, scratch, executable: null, note: () => {} };
    const report = await fuzz({
      ...common,
      kinds: [kind],
      seeds,
      failures,
      first: 1,
      goesOn: ({ cases }) => cases < 30,
    });
    expect(report).toMatchObject({ cases: 30, findings: [] });
    expect(report.kinds.get("none")).toMatchObject({ run: 30, taken: 0, failed: 0 });
    runner.close();
  });
});

describe("seeds", () => {
  test("commands read each of them as it is; the same number gives the same case", async () => {
    const runner = new Runner(join(import.meta.dir, "..", "..", "src", "main.ts"), scratch, defaultLimits);
    const seeds = join(scratch, "seeds");
    const dir = join(scratch, "case");
    mkdirSync(seeds);
    await makeSeeds(seeds, async (...args) => {
      const { status, stderr } = await runner.run(seeds, args);
      expect({ args, status, stderr }).toMatchObject({ status: 0 });
    });
    for (const kind of kinds) {
      const { name, commands } = kind;
      for (const file of filesOf(kind, seeds)) {
        const all = [commands(file)[0]!, commands(file).at(-1)!];
        const refused: string[] = [];
        for (const args of all) {
          layOut({ file, args, bytes: readFileSync(join(seeds, file)) }, seeds, dir);
          const { status, stderr } = await runner.run(dir, args);
          if (status !== 0) refused.push(`${commandLine(args)}: ${stderr}`);
        }
        if (refused.length === all.length) throw new Error(`${name}, ${file}: ${refused.join("\n")}`);
      }
    }
    runner.close();
    for (let number = 0; number < 200; number++) {
      const made = makeCase({ kinds, seeds }, number);
      expect(makeCase({ kinds, seeds }, number)).toEqual(made);
      expect(existsSync(join(seeds, made.file))).toBe(true);
    }
  }, 300_000);
});
