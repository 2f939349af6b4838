// What happens to a run when something happens to one of its ranks: all end, say why, and leave whole checkpoints.

import { afterAll, afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { readProgress } from "../../src/train/checkpoint.ts";
import { emulated } from "../backends.ts";
import { spawned } from "../spawned.ts";
import {
  canRunMpi,
  ensureMpi,
  finished,
  mpiexec,
  type RankProcess,
  type RankResult,
  startRanks,
} from "./support.ts";
import { environment, makePlace, metricsOf, neftune, trainArguments } from "./training.ts";

setDefaultTimeout(120_000);
const place = makePlace();
afterAll(() => rmSync(place, { recursive: true }));

let started: RankProcess[] = [];
afterEach(() => {
  for (const each of started) each.kill("SIGKILL");
});

const SIZE = 3;
const TIMEOUT = 5;
const env = {
  ...environment(place, emulated),
  NEFTUNE_EMULATOR_DEVICES: String(SIZE),
  NEFTUNE_COMM_TIMEOUT: String(TIMEOUT),
};
const piped = { stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const;
const checkpointsOf = (output: string) => join(place, output, "checkpoints");

/** A run of many steps that saves often. */
function commandOf(output: string): string[] {
  const often = ["--output", output, "--save-steps", "2", "--eval-steps", "1000000"];
  return [...neftune, ...trainArguments(2000), "--lora-r", "4", ...often];
}

async function start(output: string): Promise<void> {
  started = await startRanks([...commandOf(output), "--device", "cuda"], SIZE, env, { cwdOf: () => place });
}

async function untilSaved(output: string): Promise<void> {
  while (!existsSync(checkpointsOf(output)) || readdirSync(checkpointsOf(output)).length < 2) {
    await Bun.sleep(20);
    if (started.every(({ exitCode }) => exitCode !== null)) throw new Error("the run ended before it saved");
  }
}

/** The steps of the checkpoints, each of which can be read. */
function stepsSaved(output: string): number[] {
  const names = readdirSync(checkpointsOf(output)).filter((name) => name.startsWith("step-"));
  return names.map((name) => readProgress(join(checkpointsOf(output), name)).progress.step);
}

test("what is wrong with the options is said with the rank", async () => {
  const variables = { MASTER_ADDR: "127.0.0.1", MASTER_PORT: "9", WORLD_SIZE: "2" };
  const say = (rank: number, ...options: string[]) =>
    spawned([...neftune, "train", ...options], {
      cwd: place,
      env: { ...env, ...variables, RANK: String(rank) },
    });
  const ends = await Promise.all([say(0, "--alpha", "loud"), say(1, "--alpha", "loud"), say(2)]);
  for (const { status } of ends) expect(status).toBe(2);
  const said = ends.map(({ stderr }) => stderr);
  expect(said[0]).toMatch(/^error: --alpha/);
  expect(said[1]).toBe(`rank 1: ${said[0]}`);
  expect(said[2]).toMatch(/^rank 2: error: RANK=2 and WORLD_SIZE=2: expected a rank below/);
});

const hasMpi = canRunMpi();
test.skipIf(!hasMpi)("MPI does not wait for a rank that never starts", async () => {
  const launcher = mpiexec("mpich", ensureMpi("mpich")!, 1);
  const run = [...neftune, ...trainArguments(), "--device", "cpu", "--output", "unmet"];
  const command = [...launcher, ...run, ":", "-n", "1", "sleep", "60"];
  const { status, stderr } = await spawned(command, {
    cwd: place,
    env: { ...environment(place), NEFTUNE_COMM_TIMEOUT: "2" },
  });
  expect(status).not.toBe(0);
  expect(stderr).toContain("rank 0 of 2 waited 1.6 s in MPI for all ranks to start");
});

describe.skipIf(emulated === undefined)("one of three ranks", () => {
  test.each([0, 2])("SIGKILL to rank %p", async (rank) => {
    const output = `killed ${rank}`;
    await start(output);
    await untilSaved(output);
    started[rank]!.kill("SIGKILL");
    const others = started.filter((_, r) => r !== rank).map(finished);
    for (const { status, stderr } of await Promise.all(others)) {
      expect(status).toBe(1);
      expect(stderr).toContain(`error: rank ${rank}`);
      expect(stderr).toContain("ended without saying why");
    }
    expect(stepsSaved(output).length).toBeGreaterThan(0);
  });

  test("SIGSTOP to rank 1 of --device cuda:all, which ends it with the others", async () => {
    const output = "stopped";
    const run = Bun.spawn([...commandOf(output), "--device", "cuda:all"], { cwd: place, env, ...piped });
    started = [run];
    await untilSaved(output);
    const ranks = readFileSync(`/proc/${run.pid}/task/${run.pid}/children`, "utf8").trim().split(" ");
    const stopped = Number(ranks.find((pid) => readFileSync(`/proc/${pid}/environ`).includes("\0RANK=1\0")));
    process.kill(stopped, "SIGSTOP");
    const start = performance.now();
    const { status, stderr } = await finished(run);
    // Seconds more than the timeout on a busy machine; a second patience would be four.
    expect(performance.now() - start).toBeLessThan(1000 * TIMEOUT + 2500);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^error: rank 1 \(.*\) has not answered for/m);
    expect(stderr).toMatch(/^rank 2: error: rank 1 \(.*\) has not answered for/m);
    expect(() => process.kill(stopped, 0)).toThrow();
    expect(stepsSaved(output).length).toBeGreaterThan(0);
  });

  test.each([
    ["SIGTERM", 1, 143],
    ["SIGINT", 0, 130],
  ] as const)("%s to rank %p stops all after the step, saved", async (signal, rank, status) => {
    const output = `${signal} ${rank}`;
    await start(output);
    await untilSaved(output);
    started[rank]!.kill(signal);
    const results: RankResult[] = await Promise.all(started.map(finished));
    expect(results.map((each) => each.status)).toEqual([status, status, status]);
    const last = Math.max(...stepsSaved(output));
    expect(metricsOf(join(place, output)).at(-1)!.step).toBe(last);
  });

  test("a full disk on rank 0 ends all with its reason", async () => {
    // Rank 0 may write files of 900 KiB: the adapter is smaller, AdamW's moments are not.
    const options = ["--device", "cuda", "--output", "full", "--save-steps", "2", "--lora-r", "64"];
    const script = 'if [ "$RANK" = 0 ]; then ulimit -f 900; fi; exec "$@"';
    const command = ["bash", "-c", script, "bash", ...neftune, ...trainArguments(20), ...options];
    started = await startRanks(command, SIZE, env, { cwdOf: () => place });
    const results = await Promise.all(started.map(finished));
    for (const [rank, { status, stderr }] of results.entries()) {
      expect({ status, stderr }).toMatchObject({ status: 1 });
      expect(stderr).toContain(rank === 0 ? "error: " : `rank ${rank}: error: rank 0 failed: `);
      expect(stderr).toContain("checkpoint was not saved");
    }
  });
});
