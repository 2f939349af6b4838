// Case after case until the time is over: what fails is made smaller, run once more on its own, and kept.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Case, caseComplaint, commandLine, layOut, makeCase, type Origin } from "./case.ts";
import type { Limits } from "./outcome.ts";
import type { Runner } from "./runner.ts";

/** Of so many cases one runs in a process of its own, the built executable where there is one. */
const ALONE_EVERY = 25;
/** Failures that read alike but for their numbers are kept so often. */
const KEPT_OF_A_KIND = 3;

export interface FuzzOptions extends Origin {
  runner: Runner;
  limits: Limits;
  scratch: string;
  /** Failures go into folders here. */
  failures: string;
  executable: string | null;
  first: number;
  /** Asked before every case. */
  goesOn(soFar: Report): boolean;
  note(text: string): void;
}

export interface Finding {
  number: number;
  kind: string;
  complaint: string;
  folder: string;
}

/** Of a kind: how many were run, how many the program took as good, and the processor's seconds of all. */
interface Counts {
  run: number;
  taken: number;
  failed: number;
  cpuSeconds: number;
}

export interface Report {
  cases: number;
  kinds: Map<string, Counts>;
  findings: Finding[];
}

export async function fuzz(options: FuzzOptions): Promise<Report> {
  const { runner, limits, seeds, executable, first } = options;
  const report: Report = { cases: 0, kinds: new Map(), findings: [] };
  const seen = new Map<string, number>();
  const dir = join(options.scratch, "case");
  for (let number = first; options.goesOn(report); number++) {
    const made = makeCase(options, number);
    layOut(made, seeds, dir);
    const isAlone = report.cases % ALONE_EVERY === ALONE_EVERY - 1;
    const outcome = isAlone
      ? await runner.runAlone(dir, made.args, executable)
      : await runner.run(dir, made.args);
    const found = caseComplaint(made, dir, outcome, limits);
    const counts = report.kinds.get(made.kind.name) ?? { run: 0, taken: 0, failed: 0, cpuSeconds: 0 };
    report.kinds.set(made.kind.name, counts);
    report.cases++;
    counts.run++;
    counts.cpuSeconds += outcome.cpuSeconds;
    if (outcome.status === 0) counts.taken++;
    if (found === null) continue;
    const likeness = `${made.kind.name} ${found.replaceAll(made.file, "").replaceAll(/\d+/g, "").slice(0, 80)}`;
    const times = seen.get(likeness) ?? 0;
    if (times >= KEPT_OF_A_KIND) {
      counts.failed++;
      continue;
    }
    const smaller = await confirm(made, options, dir);
    if (smaller === null) {
      // Not on its own: what earlier commands left in the process is part of it.
      options.note(`case ${number} (${made.kind.name}): ${found}; not when it runs alone`);
      continue;
    }
    seen.set(likeness, times + 1);
    counts.failed++;
    const finding = keep(smaller, options);
    report.findings.push(finding);
    options.note(`case ${number} (${finding.kind}): ${finding.complaint}\n  kept in ${finding.folder}`);
  }
  return report;
}

type Confirmed = Case & { complaint: string; stderr: string };

/** Runs a case with one change, two, … in a process of its own; the first that fails, or null where none does. */
async function confirm(failed: Case, options: FuzzOptions, dir: string): Promise<Confirmed | null> {
  const { runner, limits, seeds, executable } = options;
  for (let count = 1; count <= failed.changes; count++) {
    const made = makeCase(options, failed.number, count);
    layOut(made, seeds, dir);
    const outcome = await runner.runAlone(dir, made.args, executable);
    const found = caseComplaint(made, dir, outcome, limits);
    if (found !== null) return { ...made, complaint: found, stderr: outcome.stderr };
  }
  return null;
}

/** Writes the folder that a failure can be seen in again. */
function keep(failed: Confirmed, { seeds, failures }: FuzzOptions): Finding {
  const folder = join(failures, String(failed.number));
  mkdirSync(failures, { recursive: true });
  layOut(failed, seeds, folder);
  const text = [
    `${failed.complaint}`,
    `Damaged: ${failed.file}, ${failed.changes} changes. In this folder:`,
    `  ${commandLine(failed.args)}`,
    "",
    failed.stderr.slice(0, 10_000),
  ];
  writeFileSync(join(folder, "FAILURE.txt"), text.join("\n"));
  return { number: failed.number, kind: failed.kind.name, complaint: failed.complaint, folder };
}
