// npm run fuzz -- MINUTES [FIRST]: damaged inputs, from case FIRST on, to every command that reads files.
// npm run fuzz -- case NUMBER: one of them again, with what the program says of it.
// npm run fuzz -- kills NUMBER: that many kills instead, spread over the commands that write; see kills.ts.
//
// Each input ends with exit status 0, 1 or 2 and a sentence, within 10 s of processor time and 2 GiB. What does not is
// kept in fuzz-failures/NUMBER, with the command. The same number is the same input.

import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { removeTemporaryFolders } from "../temporary.ts";
import { caseComplaint, commandLine, layOut, makeCase } from "./case.ts";
import { fuzz, type Report } from "./fuzz.ts";
import { killJobs, makeKillSeeds, openHub } from "./kill-jobs.ts";
import { killJob } from "./kills.ts";
import { kinds } from "./kinds.ts";
import { defaultLimits as limits } from "./outcome.ts";
import { Random } from "./random.ts";
import { Runner } from "./runner.ts";
import { makeSeeds } from "./seeds.ts";

const DEFAULT_MINUTES = "5";
const DEFAULT_KILLS = "100";
const NOTE_EVERY_MILLISECONDS = 15_000;

const root = join(import.meta.dir, "..", "..");
const entry = join(root, "src", "main.ts");
const built = join(root, "dist", "neftune");
const failures = join(root, "fuzz-failures");
const executable = existsSync(built) ? built : null;
// In memory where there is room for it: most of a case's time would go into writing its files.
const scratch = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "neftune-fuzz-"));
const seeds = join(scratch, "seeds");
const runner = new Runner(entry, scratch, limits);

const say = (text: string) => void process.stderr.write(`${text}\n`);
const drawn = () => Math.floor(Math.random() * 2 ** 31);

function numberOf(text: string): number {
  const number = Number(text);
  if (!(number >= 0 && number < 2 ** 32)) throw new Error(`expected a number, got ${text}`);
  return number;
}

/** Runs a command that makes seeds. */
async function must(...args: string[]): Promise<void> {
  const { status, signal, stderr } = await runner.run(seeds, args);
  if (status !== 0) throw new Error(`${commandLine(args)}: ${signal ?? status}: ${stderr}`);
}

/** Each of these returns whether all was as it should be. */
async function runFor(minutes: number, first: number): Promise<boolean> {
  await makeSeeds(seeds, must);
  say(`from case ${first} on`);
  const start = performance.now();
  let nextNote = start + NOTE_EVERY_MILLISECONDS;
  const goesOn = ({ cases }: Report) => {
    const now = performance.now();
    if (now > nextNote) {
      nextNote = now + NOTE_EVERY_MILLISECONDS;
      say(`${cases} inputs`);
    }
    return now < start + 60_000 * minutes;
  };
  const report = await fuzz({
    ...{ kinds, seeds, scratch, failures, runner, limits, executable },
    ...{ first, goesOn, note: say },
  });
  say(table(report));
  const seconds = (performance.now() - start) / 1000;
  say(`${report.cases} inputs in ${seconds.toFixed(0)} s, ${report.findings.length} failures kept`);
  return report.findings.length === 0;
}

function table({ kinds: counts }: Report): string {
  const rows = [...counts].map(([name, { run, taken, failed, cpuSeconds }]) => [
    name,
    run,
    taken,
    run - taken - failed,
    failed,
    (cpuSeconds / run).toFixed(2),
  ]);
  return [["kind", "inputs", "taken", "refused", "failed", "cpu s"], ...rows]
    .map(([name, ...cells]) => `${name}`.padEnd(18) + cells.map((cell) => `${cell}`.padStart(9)).join(""))
    .join("\n");
}

async function runCase(number: number): Promise<boolean> {
  await makeSeeds(seeds, must);
  const made = makeCase({ kinds, seeds }, number);
  const dir = join(failures, `case-${number}`);
  layOut(made, seeds, dir);
  say(`${made.kind.name}: ${made.file}, ${made.changes} changes, in ${dir}\n${commandLine(made.args)}`);
  const outcome = await runner.runAlone(dir, made.args, executable);
  const { stderr, ...rest } = outcome;
  const found = caseComplaint(made, dir, outcome, limits);
  say(`${stderr}${JSON.stringify(rest)}\n${found ?? "as it should be"}`);
  return found === null;
}

async function runKills(kills: number): Promise<boolean> {
  await makeKillSeeds(seeds, must);
  const hub = await openHub(join(seeds, "big"));
  const program = executable === null ? [process.execPath, entry] : [executable];
  const killing = { program, seeds, scratch, random: new Random(drawn()) };
  let isWhole = true;
  try {
    const jobs = killJobs(hub);
    for (const [i, job] of jobs.entries()) {
      const share = Math.floor((kills * (i + 1)) / jobs.length) - Math.floor((kills * i) / jobs.length);
      const report = await killJob(job, share, killing);
      isWhole &&= report.complaints.length === 0;
      const end = report.complaints.length === 0 ? "the files of a run never killed" : "";
      const counts = `${report.kills} kills, ${report.ended} ended before theirs`;
      say(`${job.name}: ${counts}; ${[end, ...report.complaints].join("\n  ")}`);
    }
  } finally {
    hub.close();
  }
  return isWhole;
}

let isGood = false;
try {
  mkdirSync(seeds);
  if (executable === null) say(`${built} is not built: all runs from the sources`);
  const [what = DEFAULT_MINUTES, second] = process.argv.slice(2);
  if (what === "case") isGood = await runCase(numberOf(second ?? ""));
  else if (what === "kills") isGood = await runKills(numberOf(second ?? DEFAULT_KILLS));
  else isGood = await runFor(numberOf(what), second === undefined ? drawn() : numberOf(second));
} finally {
  runner.close();
  removeTemporaryFolders();
  rmSync(scratch, { recursive: true, force: true });
}
process.exit(isGood ? 0 : 1);
