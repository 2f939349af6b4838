// The simulated clock's tables (clock.ts), beside what kernels/cuda/clock.json keeps: the step of each model on each card
// before the kernels and the trainer were last reworked, and now.
//   bun build.ts --native --emulated && bun build/check-clock.ts [--update]

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cards } from "./cards.ts";
import {
  type ClockRecord,
  clockHead,
  clockRecord,
  clockTable,
  recordedSteps,
  slowerSteps,
  titleOf,
} from "./clock.ts";
import { kernels } from "./compile.ts";
import { print } from "./table.ts";

const recordFile = join(kernels, "cuda", "clock.json");

type Kept = Record<"before" | "now", ClockRecord>;

/** A line for each work, so that a change shows where it is. */
function written(kept: Kept): string {
  const part = (record: ClockRecord) =>
    Object.entries(record).map(([work, byCard]) => `${JSON.stringify(work)}: ${JSON.stringify(byCard)}`);
  const parts = (["before", "now"] as const).map(
    (name) => `"${name}": {\n${part(kept[name]).join(",\n")}\n}`,
  );
  return `{\n${parts.join(",\n")}\n}\n`;
}

/** Prints the tables; returns what has become slower than the record says. With --update, rewrites the record. */
export async function checkClock(): Promise<string[]> {
  const steps = await recordedSteps();
  const works = [...steps.values()][0]!;
  for (const [i, work] of works.entries()) {
    print(
      `${titleOf(work)}: the least each kernel takes, in ms (arithmetic, not a measurement)`,
      clockHead,
      clockTable(steps, i),
    );
  }
  for (const [card, recorded] of steps)
    for (const work of recorded)
      if (work.problem !== null) console.log(`\n${titleOf(work)} on ${card}: ${work.problem}`);

  const kept = JSON.parse(readFileSync(recordFile, "utf8")) as Kept;
  const now = clockRecord(steps);
  const cell = (record: ClockRecord, work: string, card: string) => record[work]?.[card]?.ms ?? "–";
  print(
    "Estimated steps, ms: before → now; launches on the first card",
    ["work", ...cards.map(({ name }) => name), "launches"],
    Object.keys(now).map((work) => [
      work,
      ...cards.map(({ name }) => `${cell(kept.before, work, name)} → ${cell(now, work, name)}`),
      [kept.before, now].map((record) => record[work]?.[cards[0]!.name]?.launches ?? "–").join(" → "),
    ]),
  );
  if (!process.argv.includes("--update")) return slowerSteps(now, kept.now);
  writeFileSync(recordFile, written({ ...kept, now }));
  console.log(`\nwrote ${recordFile}`);
  return [];
}

if (import.meta.main) {
  const slower = await checkClock();
  console.log(slower.length === 0 ? "\nno step is slower" : `\n${slower.join("\n")}`);
  process.exitCode = slower.length === 0 ? 0 : 1;
}
