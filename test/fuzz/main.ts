// npm run fuzz -- MINUTES [FIRST]: damaged inputs, from case FIRST on, to every command that reads files.
// npm run fuzz -- case NUMBER: one of them again, with what the program says of it.
//
// Each ends with exit status 0, 1 or 2 and a sentence, within 10 s of processor time and 2 GiB. What does not is kept
// in fuzz-failures/NUMBER, with the command. The same number is the same input.

import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { caseComplaint, commandLine, layOut, makeCase } from "./case.ts";
import { fuzz, type Report } from "./fuzz.ts";
import { kinds } from "./kinds.ts";
import { defaultLimits } from "./outcome.ts";
import { Runner } from "./runner.ts";
import { makeSeeds } from "./seeds.ts";

const DEFAULT_MINUTES = 5;
const NOTE_EVERY_MILLISECONDS = 15_000;

const root = join(import.meta.dir, "..", "..");
const entry = join(root, "src", "main.ts");
const built = join(root, "dist", "neftune");
const failures = join(root, "fuzz-failures");

const say = (text: string) => process.stderr.write(`${text}\n`);

function fail(text: string): never {
  say(text);
  process.exit(2);
}

function wholeNumber(text: string): number {
  const number = Number(text);
  if (!Number.isSafeInteger(number) || number < 0) fail(`expected a whole number, got ${text}`);
  return number;
}

/** Makes the seeds in a folder of their own; says which kinds lack a file. */
async function prepare(runner: Runner, seeds: string): Promise<void> {
  mkdirSync(seeds);
  await makeSeeds(seeds, async (...args) => {
    const { status, signal, stderr } = await runner.run(seeds, args);
    if (status !== 0) throw new Error(`${commandLine(args)}: ${signal ?? status}: ${stderr}`);
  });
  for (const { name, files } of kinds) {
    for (const file of files) {
      if (!existsSync(join(seeds, file))) throw new Error(`kind ${name}: the seeds have no ${file}`);
    }
  }
}

function describe({ cases, kinds: counts, findings }: Report, seconds: number): string {
  const lines = [...counts].map(
    ([name, { run, taken, failed }]) =>
      `${name.padEnd(18)}${String(run).padStart(7)}${String(taken).padStart(8)}${String(run - taken - failed).padStart(9)}${String(failed).padStart(8)}`,
  );
  return [
    `${"kind".padEnd(18)}${"inputs".padStart(7)}${"taken".padStart(8)}${"refused".padStart(9)}${"failed".padStart(8)}`,
    ...lines,
    `${cases} inputs in ${seconds.toFixed(0)} s, ${findings.length} failures kept`,
  ].join("\n");
}

const [what = String(DEFAULT_MINUTES), second] = process.argv.slice(2);
const executable = existsSync(built) ? built : null;
if (executable === null) say(`${built} is not built: no case runs in the executable`);
// In memory where there is room for it: most of a case's time would go into writing its files.
const scratch = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "neftune-fuzz-"));
const seeds = join(scratch, "seeds");
const runner = new Runner(entry, scratch, defaultLimits);
let status = 0;
try {
  await prepare(runner, seeds);
  const options = { kinds, runner, limits: defaultLimits, seeds, scratch, failures, executable, note: say };
  if (what === "case") {
    const made = makeCase({ kinds, seeds }, wholeNumber(second ?? fail("which case?")));
    const dir = join(failures, `case-${made.number}`);
    layOut(made, seeds, dir);
    say(`${made.kind.name}: ${made.file}, ${made.changes} changes, in ${dir}\n${commandLine(made.args)}`);
    const outcome = await runner.runAlone(dir, made.args, executable);
    const { stderr, ...rest } = outcome;
    const found = caseComplaint(made, dir, outcome, defaultLimits);
    say(`${stderr}${JSON.stringify(rest)}\n${found ?? "as it should be"}`);
    status = found === null ? 0 : 1;
  } else {
    const end =
      performance.now() +
      60_000 * (Number(what) > 0 ? Number(what) : fail("npm run fuzz -- MINUTES [FIRST]"));
    const first = second === undefined ? Math.floor(Math.random() * 2 ** 31) : wholeNumber(second);
    say(`from case ${first} on`);
    const start = performance.now();
    let nextNote = start + NOTE_EVERY_MILLISECONDS;
    const goesOn = ({ cases }: Report) => {
      const now = performance.now();
      if (now > nextNote) {
        nextNote = now + NOTE_EVERY_MILLISECONDS;
        say(`${cases} inputs`);
      }
      return now < end;
    };
    const report = await fuzz({ ...options, first, goesOn });
    say(describe(report, (performance.now() - start) / 1000));
    status = report.findings.length === 0 ? 0 : 1;
  }
} finally {
  runner.close();
  rmSync(scratch, { recursive: true, force: true });
}
process.exit(status);
