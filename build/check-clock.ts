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
import { kernels, root } from "./compile.ts";
import { print } from "./table.ts";

const recordFile = join(kernels, "cuda", "clock.json");

const page = join(root, "docs", "performance.md");

export type Kept = Record<"before" | "now", ClockRecord>;

export const readKept = () => JSON.parse(readFileSync(recordFile, "utf8")) as Kept;

/** Works by card, before and now; the first row is the head. */
function comparison({ before, now }: Kept): string[][] {
  const change = (work: string, card: string, value: "ms" | "launches") =>
    [before, now]
      .map((record) => record[work]?.[card]?.[value])
      .map((n) => (n === undefined ? "–" : value === "ms" && n >= 100 ? n.toFixed(0) : String(n)))
      .join(" → ");
  return [
    ["work", ...cards.map(({ name }) => name), `launches, ${cards[0]!.name}`],
    ...Object.keys(now).map((work) => [
      work,
      ...cards.map(({ name }) => change(work, name, "ms")),
      change(work, cards[0]!.name, "launches"),
    ]),
  ];
}

/** Where the time of each work goes on the first card, before and now. */
function partsTable({ before, now }: Kept): string[][] {
  const card = cards[0]!.name;
  const of = (record: ClockRecord, work: string) => record[work]?.[card]?.parts ?? {};
  const works = Object.keys(now);
  const parts = new Set(
    [before, now].flatMap((record) => works.flatMap((work) => Object.keys(of(record, work)))),
  );
  return [
    [`ms on an ${card}`, ...works],
    ...[...parts].map((part) => [
      part,
      ...works.map((work) =>
        [before, now].map((record) => of(record, work)[part]?.toFixed(1) ?? "–").join(" → "),
      ),
    ]),
  ];
}

/** As the formatter leaves it. */
function markdown(table: string[][]): string {
  const widths = table[0]!.map((_, i) => Math.max(3, ...table.map((row) => row[i]!.length)));
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`;
  const [head = [], ...rows] = table.map(line);
  return [head, line(widths.map((width) => "-".repeat(width))), ...rows].join("\n");
}

/** The page's text with the tables of a record between its marks. */
export function withTables(text: string, kept: Kept): string {
  const tables = [comparison(kept), partsTable(kept)].map(markdown).join("\n\n");
  return text.replace(/(<!-- clock.*-->\n)[\s\S]*(<!-- \/clock -->)/, `$1\n${tables}\n\n$2`);
}

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

  const kept = readKept();
  const now = clockRecord(steps);
  const [head = [], ...rows] = comparison({ before: kept.before, now });
  print("Estimated steps, ms: before → now", head, rows);
  if (!process.argv.includes("--update")) return slowerSteps(now, kept.now);
  writeFileSync(recordFile, written({ ...kept, now }));
  writeFileSync(page, withTables(readFileSync(page, "utf8"), { ...kept, now }));
  console.log(`\nwrote ${recordFile} and ${page}`);
  return [];
}

if (import.meta.main) {
  const slower = await checkClock();
  console.log(slower.length === 0 ? "\nno step is slower" : `\n${slower.join("\n")}`);
  process.exitCode = slower.length === 0 ? 0 : 1;
}
