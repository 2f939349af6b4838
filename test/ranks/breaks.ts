// Breaks a run of several ranks at a random moment, then lets another number of ranks resume it to its end.

import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { readSafetensorsHeader } from "../../src/formats/safetensors.ts";
import { readProgress } from "../../src/train/checkpoint.ts";
import type { Random } from "../fuzz/random.ts";
import { type environment, lossDifference, metricsOf, neftune, trainArguments } from "./training.ts";
import { type Launch, launches, send, startWatched, type Watched } from "./watched.ts";

/** The emulator is slow. */
const stepsOf = (launch: Launch) => (launch === "emulated" ? 30 : 120);
/** Sums in another order, over all steps. */
const MOST_LOSS_DIFFERENCE = 1e-3;
/** NEFTUNE_COMM_TIMEOUT of the broken run. */
const TIMEOUT_SECONDS = 20;
const PATIENCE_MILLISECONDS = 120_000;

export type BreakSignal = "SIGKILL" | "SIGSTOP" | "SIGTERM" | "SIGINT";

export interface Break {
  launch: Launch;
  ranks: number;
  victim: number;
  signal: BreakSignal;
  /** While ranks find each other and load; between steps; while rank 0 writes a checkpoint. */
  moment: "start" | "steps" | "saving";
  /** How long after that moment has come. */
  milliseconds: number;
  /** The launcher leaves the other ranks alone: MPICH's and Open MPI's kill them otherwise. */
  isLenient: boolean;
  resumed: number;
}

export function makeBreak(random: Random, index: number, signal: BreakSignal): Break {
  const ranks = 2 + random.below(3);
  const moment = (["start", "steps", "saving"] as const)[index % 3]!;
  // SIGTERM and SIGINT ask for an end in order where training has begun.
  const isAsked = signal === "SIGTERM" || signal === "SIGINT";
  return {
    launch: launches[Math.floor(index / 3) % launches.length]!,
    ranks,
    victim: random.below(ranks),
    signal,
    moment: isAsked && moment === "start" ? "steps" : moment,
    milliseconds: random.below(moment === "saving" ? 15 : 1500),
    isLenient: isAsked || random.once(2),
    resumed: 1 + ((ranks + random.below(3)) % 4),
  };
}

export const describeBreak = ({ launch, ranks, victim, signal, moment, ...rest }: Break) =>
  `${launch}${rest.isLenient || launch === "emulated" ? "" : ", its launcher kills"}: ${signal} to rank ${victim} of ${ranks}, ${moment} + ${rest.milliseconds} ms, resumed by ${rest.resumed}`;

export interface Outcome {
  /** From the signal to the last rank's end. */
  seconds: number;
  /** Of the newest checkpoint; null: there was none. */
  saved: number | null;
  /** The run ended before the signal came. */
  isEarly: boolean;
  complaints: string[];
}

/** Runs of one process with the samples per step of 1 to 4 ranks, on each device. */
export const wholeRun = (launch: Launch, ranks: number) =>
  `whole-${launch === "emulated" ? "gpu" : "cpu"}-${ranks}`;

export const breakArguments = (launch: Launch, output: string) => [
  // What a stopped run says is a note, which --quiet leaves out.
  ...trainArguments(stepsOf(launch)).filter((argument) => argument !== "--quiet"),
  ...["--epochs", "100", "--lora-r", "4", "--save-steps", "3"],
  ...["--eval-steps", "1000000", "--device", launch === "emulated" ? "cuda" : "cpu", "--output", output],
];

export interface BreakPlace {
  place: string;
  env: ReturnType<typeof environment>;
}

export async function breakRun(it: Break, { place, env }: BreakPlace): Promise<Outcome> {
  const output = join(place, "broken");
  const folder = join(place, "watched");
  for (const each of [output, folder]) rmSync(each, { recursive: true, force: true });
  const command = [...neftune, ...breakArguments(it.launch, output)];
  const settings = { cwd: place, env: { ...env, NEFTUNE_COMM_TIMEOUT: String(TIMEOUT_SECONDS) } };
  const run = await startWatched(it.launch, it.ranks, command, {
    ...settings,
    folder,
    isLenient: it.isLenient,
  });
  const outcome: Outcome = { seconds: 0, saved: null, isEarly: false, complaints: [] };
  const complain = (text: string) => outcome.complaints.push(text);
  try {
    if (!(await strike(run, it, output))) {
      outcome.isEarly = true;
      await run.settle();
      const failed = run.ranks.find((rank) => (run.statusOf(rank) ?? 0) !== 0);
      if (failed !== undefined) complain(`it failed before the signal came: ${run.messagesOf(failed)}`);
      return outcome;
    }
    const start = performance.now();
    const lasting = it.signal === "SIGSTOP" ? run.ranks.filter((rank) => rank !== it.victim) : run.ranks;
    const isOver = () => lasting.every((rank) => run.hasEnded(rank));
    if (!(await run.until(isOver, 1000 * TIMEOUT_SECONDS * 2))) {
      const running = lasting.filter((rank) => !run.hasEnded(rank)).join(", ");
      complain(`rank ${running} runs after twice the timeout`);
    }
    outcome.seconds = (performance.now() - start) / 1000;
    if (outcome.seconds > TIMEOUT_SECONDS) complain(`the end took ${outcome.seconds.toFixed(1)} s`);
    if (it.signal === "SIGSTOP") {
      send(run.processOf(it.victim)!, "SIGCONT");
      if (!(await run.until(() => run.hasEnded(it.victim), 1000 * TIMEOUT_SECONDS)))
        complain("the stopped rank goes on when it is continued");
    }
    await run.settle();
    for (const text of endsOf(run, it)) complain(text);
  } finally {
    await run.kill();
  }
  outcome.saved = newestCheckpoint(output, complain);
  // From then on a step keeps its samples, whether a checkpoint was made or not.
  const hasBegun = existsSync(join(output, "config.json"));
  await resume(it, { place, env }, { output, begun: hasBegun ? it.ranks : it.resumed }, outcome);
  return outcome;
}

/** Sends the signal when its moment has come; false: the run has ended. */
async function strike(run: Watched, { moment, milliseconds, victim, signal }: Break, output: string) {
  const checkpoints = join(output, "checkpoints");
  const names = () => (existsSync(checkpoints) ? readdirSync(checkpoints) : []);
  const hasCome = {
    start: () => run.processOf(victim) !== null,
    steps: () => names().some((name) => name.startsWith("step-")),
    saving: () =>
      names().some((name) => name.startsWith("step-")) && names().some((name) => name.endsWith(".partial")),
  }[moment];
  const hasEnded = () => run.ranks.some((rank) => run.hasEnded(rank));
  await run.until(() => hasCome() || hasEnded(), PATIENCE_MILLISECONDS);
  await Bun.sleep(milliseconds);
  const process = run.processOf(victim);
  if (process === null || hasEnded()) return false;
  send(process, signal);
  return true;
}

/** What is wrong about how the ranks ended. */
function endsOf(run: Watched, { launch, victim, signal, isLenient, moment }: Break): string[] {
  const complaints: string[] = [];
  const isKilledByLauncher = launch !== "emulated" && !isLenient;
  if (!isKilledByLauncher && run.ranks.every((rank) => run.statusOf(rank) === null))
    complaints.push("no rank's status is known");
  for (const rank of run.ranks) {
    const [status, said] = [run.statusOf(rank), run.messagesOf(rank).trim()];
    const tell = (text: string) => complaints.push(`rank ${rank}, status ${status}: ${text}: ${said}`);
    // Open MPI's launcher may end a shell before it has written the status.
    const isUnknown = status === null && launch === "openmpi";
    if (signal === "SIGTERM" || signal === "SIGINT") {
      const wanted = signal === "SIGTERM" ? 143 : 130;
      if (status !== wanted && !isUnknown) tell(`expected status ${wanted}`);
      // Rank 0 speaks for all.
      if (rank === 0 && status === wanted && !/stopped after step \d+ of/.test(said))
        tell("expected the step it stopped after");
      continue;
    }
    if (rank === victim) {
      // A launcher may kill it as soon as the others have ended.
      if (signal === "SIGSTOP" && launch === "emulated" && status !== 1) tell("expected status 1");
      continue;
    }
    if (isKilledByLauncher && (status === null || status === 137 || status === 143)) continue;
    // Open MPI ends ranks by itself that still wait in it when the first has given up.
    if (launch === "openmpi" && moment === "start" && status !== 0 && said.includes("MPI_Init")) continue;
    if (status !== 1 && !isUnknown) tell("expected status 1");
    const isMpiUnmet = launch !== "emulated" && moment === "start" && said.includes("in MPI for all ranks");
    if (!(said.includes(`rank ${victim}`) || isMpiUnmet) || !said.includes("error: "))
      tell(`rank ${victim} is not named`);
    if (said.includes("internal error")) tell("an internal error");
  }
  return complaints;
}

/** The step of the newest checkpoint; each must be whole. */
function newestCheckpoint(output: string, complain: (text: string) => void): number | null {
  const folder = join(output, "checkpoints");
  if (!existsSync(folder)) return null;
  const steps = [];
  for (const name of readdirSync(folder).filter((each) => each.startsWith("step-"))) {
    try {
      const files = readdirSync(join(folder, name)).filter((each) => each.endsWith(".safetensors"));
      for (const file of files) readSafetensorsHeader(join(folder, name, file));
      if (files.length < 2) complain(`${name} holds ${files.join(", ")}`);
      steps.push(readProgress(join(folder, name)).progress.step);
    } catch (error) {
      complain(`${name}: ${(error as Error).message}`);
    }
  }
  return steps.length === 0 ? null : Math.max(...steps);
}

/** To the end, by another number of ranks, and with the losses of a run of `begun` ranks that was never broken. */
async function resume(
  { launch, resumed }: Break,
  { place, env }: BreakPlace,
  { output, begun }: { output: string; begun: number },
  { complaints }: Outcome,
): Promise<void> {
  const folder = join(place, "resumed");
  rmSync(folder, { recursive: true, force: true });
  const command = [...neftune, ...breakArguments(launch, output), "--resume"];
  const run = await startWatched(launch, resumed, command, { cwd: place, env, folder, isLenient: false });
  try {
    const isOver = await run.until(
      () => run.ranks.every((rank) => run.hasEnded(rank)),
      PATIENCE_MILLISECONDS,
    );
    await run.settle();
    const statuses = run.ranks.map((rank) => run.statusOf(rank));
    if (!isOver || statuses.some((status) => status !== 0)) {
      const said = run.ranks.map((rank) => run.messagesOf(rank).trim()).join("\n");
      complaints.push(`--resume ended with ${statuses.join(", ")}: ${said}`);
      return;
    }
  } finally {
    await run.kill();
  }
  const steps = metricsOf(output).flatMap(({ step, loss }) => (loss === undefined ? [] : [step]));
  if (steps.length !== stepsOf(launch) || steps.some((step, i) => step !== i + 1))
    complaints.push(`metrics.jsonl has the steps ${steps.join(" ")}`);
  else {
    const difference = lossDifference(output, join(place, wholeRun(launch, begun)));
    if (difference > MOST_LOSS_DIFFERENCE)
      complaints.push(`losses differ by ${difference} from a whole run's`);
  }
}
