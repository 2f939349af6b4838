// Kills find a program that leaves half of its work, and let one pass that does not.

import { expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { scratchFolder } from "../scratch.ts";
import { killJob } from "./kills.ts";
import { Random } from "./random.ts";

const scratch = scratchFolder();
const seeds = join(scratch, "seeds");
mkdirSync(seeds);

const kill = (how: string) =>
  killJob({ name: how, args: [how], output: "out", reads: [] }, 12, {
    program: [process.execPath, join(import.meta.dir, "planted-writer.ts")],
    ...{ seeds, scratch, random: new Random(1) },
  });

test("half a folder is found", async () => {
  const { complaints } = await kill("torn");
  expect(complaints.join("\n")).toMatch(/after a kill: out\/[bc] is not there, expected 1 bytes/);
}, 60_000);

test("what a killed process has begun is found where the next one leaves it", async () => {
  const { complaints } = await kill("littering");
  expect(complaints.join("\n")).toMatch(/at the end: \.out\.\d+ is folder, expected nothing/);
}, 60_000);

test("a folder that appears whole passes", async () => {
  const report = await kill("whole");
  expect(report).toMatchObject({ kills: 12, complaints: [] });
}, 60_000);
