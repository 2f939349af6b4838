// npm run test:ranks -- [KILLS] [STOPS] [SEED]: breaks runs of 2 to 4 ranks at random moments: KILLS (30) by SIGKILL, STOPS
// (10) by SIGSTOP, SIGTERM and SIGINT, under MPICH, Open MPI, and on emulated GPUs. Each time all ranks must end within
// NEFTUNE_COMM_TIMEOUT, with a sentence and the right exit status; checkpoints must be whole; and another number of
// ranks must resume the run to its end. The same seed draws the same breaks; moments shift with the machine's load.

import { rmSync } from "node:fs";
import { emulated } from "../backends.ts";
import { Random } from "../fuzz/random.ts";
import { spawned } from "../spawned.ts";
import {
  type BreakSignal,
  breakArguments,
  breakRun,
  describeBreak,
  makeBreak,
  type Outcome,
  wholeRun,
} from "./breaks.ts";
import { environment, makePlace, neftune } from "./training.ts";

const MOST_RANKS = 4;
/** Breaks of runs that ended before, one after another, until this gives up. */
const MOST_EARLY = 5;

const say = (text: string) => void process.stderr.write(`${text}\n`);
const given = process.argv.slice(2);
if (given.length > 3 || !given.every((text) => /^\d{1,10}$/.test(text))) {
  say(`test:ranks takes up to three whole numbers, KILLS STOPS SEED; got ${given.join(" ")}`);
  process.exit(2);
}
const [kills = 30, stops = 10, seed = Math.floor(Math.random() * 2 ** 31)] = given.map(Number);
if (kills + stops === 0) {
  say("test:ranks has nothing to do with 0 kills and 0 stops");
  process.exit(2);
}
if (emulated === undefined) throw new Error("the emulator is not built: npm run build:native");
const place = makePlace();
const env = environment(place, emulated);

async function makeWholeRuns(): Promise<void> {
  for (const launch of ["mpich", "emulated"] as const) {
    for (let ranks = 1; ranks <= MOST_RANKS; ranks++) {
      const options = breakArguments(launch, wholeRun(launch, ranks));
      const command = [...neftune, ...options, "--gradient-accumulation-steps", String(ranks)];
      const { status, stderr } = await spawned(command, { cwd: place, env });
      if (status !== 0) throw new Error(stderr);
    }
  }
}

const stopSignals: readonly BreakSignal[] = ["SIGSTOP", "SIGTERM", "SIGSTOP", "SIGINT"];

async function breakOften(): Promise<boolean> {
  say(`seed ${seed}: ${kills} kills, ${stops} stops`);
  await makeWholeRuns();
  const ends: Outcome[] = [];
  for (let index = 0; index < kills + stops; index++) {
    const signal = index < kills ? "SIGKILL" : stopSignals[(index - kills) % stopSignals.length]!;
    let outcome: Outcome;
    for (let tries = 0; ; tries++) {
      const it = makeBreak(new Random(seed + 1000 * index + tries), index, signal);
      outcome = await breakRun(it, { place, env });
      const end = outcome.isEarly
        ? "ended before it"
        : `ended after ${outcome.seconds.toFixed(1)} s, newest checkpoint ${outcome.saved ?? "none"}`;
      say([`${index + 1}. ${describeBreak(it)}: ${end}`, ...outcome.complaints].join("\n  "));
      if (!outcome.isEarly || tries === MOST_EARLY) break;
    }
    ends.push(outcome);
  }
  const broken = ends.filter(({ isEarly }) => !isEarly);
  const failed = ends.filter(({ complaints }) => complaints.length > 0).length;
  const longest = Math.max(...broken.map(({ seconds }) => seconds));
  say(`${broken.length} runs broken, the longest end ${longest.toFixed(1)} s; ${failed} with complaints`);
  return failed === 0 && broken.length === ends.length;
}

let isGood = false;
try {
  isGood = await breakOften();
} finally {
  rmSync(place, { recursive: true, force: true });
}
process.exit(isGood ? 0 : 1);
