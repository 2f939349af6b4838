// Kills commands (-9) at random moments, again and again, then lets them end: the folder is then the same, file for
// file and byte for byte, as that of a command that was never killed.

import {
  cpSync,
  existsSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
} from "node:fs";
import { join } from "node:path";
import type { KillJob } from "./kill-jobs.ts";
import type { Random } from "./random.ts";
import { baseEnv } from "./runner.ts";

/** What a killed process leaves in a cache is kept for a day, for it might be another's that still works. */
const MORE_THAN_A_DAY_SECONDS = 25 * 3600;
const LEFT_IN_CACHES = /\.part$|\.partial$/;

/** Files of a run that say how long a step took, or how much memory was free. */
const RECORDS = /(^|\/)(metrics\.jsonl|config\.json|run\.json)$/;
const PASSING = /"(seconds|tokens_per_second|peak_memory_bytes|free_memory)": ?[\d.e+-]+/g;

export interface KillReport {
  name: string;
  kills: number;
  /** Starts that ended before they were to be killed. */
  ended: number;
  complaints: string[];
}

/** What a run leaves for people has those in it, too. */
const PAGES = /(^|\/)(report\.html|README\.md)$/;

/** A path below a folder with its content, but for what differs from run to run. */
type Tree = Map<string, string>;

function treeOf(dir: string): Tree {
  const tree: Tree = new Map();
  for (const name of readdirSync(dir, { recursive: true, encoding: "utf8" }).sort()) {
    const path = join(dir, name);
    const entry = lstatSync(path);
    if (entry.isSymbolicLink()) tree.set(name, `-> ${readlinkSync(path)}`);
    else if (entry.isDirectory()) tree.set(name, "folder");
    else if (PAGES.test(name)) tree.set(name, "a page");
    else if (RECORDS.test(name)) tree.set(name, readFileSync(path, "utf8").replaceAll(PASSING, '"$1":0'));
    else tree.set(name, `${entry.size} bytes, ${Bun.hash(readFileSync(path)).toString(16)}`);
  }
  return tree;
}

/** What of a tree is not as in `want`. */
function differences(got: Tree, want: Tree): string[] {
  return [...new Set([...got.keys(), ...want.keys()])]
    .filter((name) => got.get(name) !== want.get(name))
    .map((name) => `${name} is ${got.get(name) ?? "not there"}, expected ${want.get(name) ?? "nothing"}`);
}

interface Killing {
  /** The executable, or `bun` and an entry. */
  program: readonly string[];
  seeds: string;
  scratch: string;
  random: Random;
}

/** Kills a job `kills` times. Every complaint says what was lost or left. */
export async function killJob(job: KillJob, kills: number, options: Killing): Promise<KillReport> {
  const [straight, killed] = ["straight", "killed"].map((name) => makePlace(job, options, name));
  const report: KillReport = { name: job.name, kills: 0, ended: 0, complaints: [] };
  const { seconds } = await runToEnd(job, options, straight!);
  const want = treeOf(straight!);
  const output = job.output === undefined ? null : { name: job.output, want: part(want, job.output) };
  while (report.kills < kills && report.ended < 2 * kills + 10) {
    const child = start(job, options, killed!);
    const timer = setTimeout(() => child.kill("SIGKILL"), 1000 * seconds * 1.05 * drawn(options.random));
    await child.exited;
    clearTimeout(timer);
    if (child.signalCode === "SIGKILL") report.kills++;
    else if (child.exitCode === 0) report.ended++;
    else report.complaints.push(`after ${report.kills} kills: ${await messageOf(child)}`);
    if (output !== null && existsSync(join(killed!, output.name))) {
      const got = part(treeOf(killed!), output.name);
      report.complaints.push(...differences(got, output.want).map((text) => `after a kill: ${text}`));
      rmSync(join(killed!, output.name), { recursive: true });
    } else if (output === null && child.exitCode === 0) {
      // From the start again, so that there is something to kill.
      rmSync(killed!, { recursive: true });
      makePlace(job, options, "killed");
    }
    if (report.complaints.length > 5) return report;
  }
  age(killed!);
  try {
    await runToEnd(job, options, killed!);
  } catch (error) {
    report.complaints.push(`at the end: ${(error as Error).message}`);
  }
  report.complaints.push(...differences(treeOf(killed!), want).map((text) => `at the end: ${text}`));
  return report;
}

/** Between 0 and 1. */
const drawn = (random: Random) => random.below(10_000) / 10_000;

const part = (tree: Tree, folder: string): Tree =>
  new Map([...tree].filter(([name]) => name === folder || name.startsWith(`${folder}/`)));

function makePlace(job: KillJob, { seeds, scratch }: Killing, name: string): string {
  const dir = join(scratch, `${job.name.replaceAll(" ", "-")}-${name}`);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir);
  for (const file of job.reads) cpSync(join(seeds, file), join(dir, file), { recursive: true });
  return dir;
}

function start(job: KillJob, { program }: Killing, dir: string) {
  return Bun.spawn([...program, ...job.args], {
    cwd: dir,
    env: { ...baseEnv, HOME: dir, XDG_CACHE_HOME: join(dir, ".cache"), ...job.env },
    stdio: ["ignore", "ignore", "pipe"],
  });
}

async function messageOf(child: ReturnType<typeof start>): Promise<string> {
  const stderr = await new Response(child.stderr).text();
  return `${child.signalCode ?? `exit status ${child.exitCode}`}: ${stderr.trim().split("\n").at(-1)}`;
}

async function runToEnd(job: KillJob, options: Killing, dir: string): Promise<{ seconds: number }> {
  const begin = performance.now();
  const child = start(job, options, dir);
  const message = await messageOf(child);
  if ((await child.exited) !== 0) throw new Error(`${job.name}: ${message}`);
  return { seconds: (performance.now() - begin) / 1000 };
}

/** Makes what was left in caches old enough to be cleaned away. */
function age(dir: string): void {
  const then = Date.now() / 1000 - MORE_THAN_A_DAY_SECONDS;
  for (const name of readdirSync(dir, { recursive: true, encoding: "utf8" })) {
    if (name.startsWith(".cache") && LEFT_IN_CACHES.test(name)) lutimesSync(join(dir, name), then, then);
  }
}
