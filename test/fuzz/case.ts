// A damaged input and the command that reads it: the same for the same number.

import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { Kind } from "./kinds.ts";
import { complaint, type Limits, type Outcome } from "./outcome.ts";
import { Random } from "./random.ts";

const MOST_CHANGES = 4;

export interface Case {
  number: number;
  kind: Kind;
  /** The damaged file. */
  file: string;
  /** How many changes were made to it, one after the other. */
  changes: number;
  args: readonly string[];
  bytes: Uint8Array;
}

/** The files of a kind, patterns among them resolved. */
export function filesOf({ name, files }: Kind, seeds: string): string[] {
  const found = files.flatMap((file) =>
    file.includes("*") ? [...new Bun.Glob(file).scanSync({ cwd: seeds, dot: true })].sort() : [file],
  );
  if (found.length === 0) throw new Error(`kind ${name}: no file ${files.join(", ")} among the seeds`);
  return found;
}

/** Where cases are made from: kinds, and the folder of the seeds' files. */
export interface Origin {
  kinds: readonly Kind[];
  seeds: string;
}

/** Case `number`. `changes` limits how many are made, to find out which one matters. */
export function makeCase({ kinds, seeds }: Origin, number: number, changes = MOST_CHANGES): Case {
  const random = new Random(number);
  const kind = kinds[number % kinds.length]!;
  const file = random.pick(filesOf(kind, seeds));
  const command = random.pick(kind.commands(file));
  const variant = random.once(2) ? random.pick(kind.variants ?? [[]]) : [];
  const count = Math.min(changes, 1 + random.below(MOST_CHANGES));
  let bytes: Uint8Array = readFileSync(join(seeds, file));
  for (let i = 0; i < count; i++) bytes = kind.mutate(bytes, random);
  return { number, kind, file, changes: count, args: [...command, ...variant], bytes };
}

/** What every command may name in a config file, and where caches are. */
const ALWAYS = ["model", "alpaca.json", ".cache"];

/** Lays out in `dir`, which is made anew, what the command reads, with the damaged file in its place. */
export function layOut(
  { file, args, bytes }: Pick<Case, "file" | "args" | "bytes">,
  seeds: string,
  dir: string,
): void {
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  for (const name of new Set([...ALWAYS, file.split("/")[0]!, ...args])) {
    const from = join(seeds, name);
    if (existsSync(from)) cpSync(from, join(dir, name), { recursive: true });
  }
  writeFileSync(join(dir, file), bytes);
}

/** The command as it would be typed. */
export const commandLine = (args: readonly string[]) =>
  ["neftune", ...args].map((word) => (/^[\w./=-]+$/.test(word) ? word : `'${word}'`)).join(" ");

/** What is wrong with an outcome, its output folder included: it is whole or not there. */
export function caseComplaint(
  { args, kind }: Case,
  dir: string,
  outcome: Outcome,
  limits: Limits,
): string | null {
  const mayBeLong = kind.asksForWork === true || args[0] === "generate";
  if (mayBeLong && outcome.stopped !== null && hasBegun(dir, outcome)) return null;
  const found = complaint(outcome, limits);
  if (found !== null || outcome.status === 0 || args[0] === "train") return found;
  const left = readdirSync(dir).filter((name) => /^\.?out(\.|$)/.test(name));
  const whole = left.filter(
    (name) => existsSync(join(dir, name)) && !lstatSync(join(dir, name)).isDirectory(),
  );
  // Answers that were generated before the error are kept.
  const wrong = args[0] === "generate" ? left.filter((name) => !whole.includes(name)) : left;
  return wrong.length === 0 ? null : `exit status ${outcome.status}, and ${wrong.join(", ")} is left`;
}

/** True where all was read and checked, and the work was under way. */
const hasBegun = (dir: string, { stderr }: Outcome) =>
  /^(run:|note: a prompt of \d+ tokens) /m.test(stderr) || existsSync(join(dir, ".out.partial"));
