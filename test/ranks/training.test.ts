// Ranks train as one process does with the same samples a step: losses, noise and trained values.

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { emulated } from "../backends.ts";
import { canRunMpi, finished, type RanksByVariables, runMpi, startRanks } from "./support.ts";
import {
  environment,
  evaluationLoss,
  lossDifference,
  makePlace,
  metricsOf,
  neftune,
  trainArguments,
  valueDifference,
} from "./training.ts";

setDefaultTimeout(120_000);
const place = makePlace();
afterAll(() => rmSync(place, { recursive: true }));
const hasMpi = canRunMpi();
const at = (output: string) => join(place, output);

const lora = ["--lora-r", "4"];
const full = ["--tune", "full", "--save-dtype", "f32"];
const kinds: [name: string, ranks: number, options: string[]][] = [
  ["LoRA", 2, lora],
  [
    "LoRA, padded, merged, with dropout",
    3,
    [...lora, "--packing", "off", "--micro-batch-tokens", "40", "--lora-dropout", "0.1"],
  ],
  ["noise by the padded length", 4, [...lora, "--packing", "off", "--neft-length", "padded"]],
  ["a learned scale", 3, [...lora, "--neft-scale", "learned"]],
  ["QLoRA", 2, [...lora, "--quantization", "nf4"]],
  ["full", 3, full],
  [
    "full, padded, in steps that not every rank has as many micro-batches of",
    4,
    [...full, "--packing", "off"],
  ],
  ["full with nothing divided", 2, [...full, "--shard", "none"]],
  ["full with 8-bit states", 2, [...full, "--optim", "adamw8bit"]],
];

async function alone(
  output: string,
  device: string,
  options: readonly string[],
  env: object,
  steps = 6,
): Promise<void> {
  const command = [...neftune, ...trainArguments(steps), "--device", device, "--output", output, ...options];
  const child = Bun.spawn(command, {
    cwd: place,
    env: env as never,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const { status, stderr } = await finished(child);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
}

/** Sums over ranks are rounded otherwise than over micro-batches, and states of 8 bits then fall on other codes. */
function expectSameRun(ranks: string, one: string, most = 2e-6): void {
  expect(lossDifference(at(ranks), at(one))).toBeLessThan(most);
  expect(evaluationLoss(at(ranks)) / evaluationLoss(at(one))).toBeCloseTo(1, 5);
  expect(valueDifference(at(ranks), at(one))).toBeLessThan(1e-5);
  const counts = (output: string) =>
    metricsOf(at(output)).map(({ step, samples, tokens, target_tokens }) => [
      step,
      samples,
      tokens,
      target_tokens,
    ]);
  expect(counts(ranks)).toEqual(counts(one));
}

describe.skipIf(!hasMpi)("on CPUs", () => {
  test.each(kinds)("%s, %p ranks", async (name, ranks, options) => {
    const [one, many] = [`one ${name}`, `ranks ${name}`];
    const env = environment(place);
    await alone(one, "cpu", [...options, "--gradient-accumulation-steps", String(ranks)], env);
    const command = [...neftune, ...trainArguments(), "--device", "cpu", "--output", many, ...options];
    const { status, stderr } = await runMpi("mpich", ranks, command, env, place);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expectSameRun(many, one, name.includes("8-bit") ? 5e-6 : 2e-6);
    const record = JSON.parse(
      readFileSync(at(`${many}/${name.startsWith("full") ? "run" : "config"}.json`), "utf8"),
    );
    expect(record).toMatchObject({ ranks, "gradient-accumulation-steps": ranks, micro_batches_per_rank: 1 });
  });

  test("the same launch ends with the same bits; another number of ranks goes on within rounding", async () => {
    const env = environment(place);
    const options = ["--device", "cpu", "--save-steps", "2", ...lora];
    const run = async (ranks: number, steps: number, output: string, ...more: string[]) => {
      const command = [...neftune, ...trainArguments(steps), ...options, "--output", output, ...more];
      // The schedule has to be that of the whole run.
      const constant = ["--lr-scheduler-type", "constant"];
      const { status, stderr } = await runMpi("mpich", ranks, [...command, ...constant], env, place);
      expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    };
    const adapter = (output: string) => readFileSync(at(`${output}/adapter_model.safetensors`));
    await run(4, 8, "whole");
    await run(4, 8, "again");
    expect(adapter("again").equals(adapter("whole"))).toBe(true);
    await run(4, 2, "changing");
    await run(4, 4, "changing", "--resume");
    await run(2, 5, "changing", "--resume");
    await run(1, 6, "changing", "--resume");
    await run(3, 8, "changing", "--resume");
    expect(lossDifference(at("changing"), at("whole"))).toBeLessThan(2e-6);
    expect(valueDifference(at("changing"), at("whole"))).toBeLessThan(1e-5);
  });
});

describe.skipIf(emulated === undefined)("on emulated GPUs", () => {
  test.each([kinds[0]!, kinds[4]!, kinds[5]!])("%s, %p ranks", async (name, ranks, options) => {
    const [one, many] = [`one GPU ${name}`, `GPUs ${name}`];
    const env = environment(place, emulated);
    await alone(one, "cuda", [...options, "--gradient-accumulation-steps", String(ranks)], env);
    const devices = { NEFTUNE_EMULATOR_DEVICES: String(ranks) };
    await alone(many, "cuda:all", options, { ...env, ...devices });
    expectSameRun(many, one);
  });

  test("each rank goes by the algorithms of products that it chose before it was stopped", async () => {
    const options = [...lora, "--save-steps", "2", "--lr-scheduler-type", "constant"];
    const run = (ranks: number, steps: number, ...more: string[]) => {
      const env = { NEFTUNE_TUNE_MATMUL: "1", NEFTUNE_EMULATOR_DEVICES: String(ranks) };
      return alone(
        "tuned",
        "cuda:all",
        [...options, ...more],
        { ...environment(place, emulated), ...env },
        steps,
      );
    };
    const file = at("tuned/matmul-choices.txt");
    const partsOf = () =>
      readFileSync(file, "utf8")
        .split("\n\n")
        .map((part) => part.trimEnd());
    await run(2, 2);
    const parts = partsOf();
    expect(parts.map((part) => part.split("\n").length > 5)).toEqual([true, true]);
    // The second rank's are made others, each, than those of the first, which it would find by timing at best by chance.
    const [first, second] = parts.map((part, rank) =>
      part.replace(/ 414c474f [01] /g, ` 414c474f ${rank} `),
    ) as [string, string];
    writeFileSync(file, `${first}\n\n${second}\n`);
    await run(2, 4, "--resume");
    const resumed = partsOf();
    expect(resumed.map((part, rank) => part.startsWith([first, second][rank]!))).toEqual([true, true]);
  });

  describe("what differs is named before anything is loaded", () => {
    const other = makePlace();
    afterAll(() => rmSync(other, { recursive: true }));
    const row = { prompt: "another", completion: " row" };
    writeFileSync(join(other, "data.json"), JSON.stringify(Array.from({ length: 61 }, () => row)));

    test.each<[string, RanksByVariables]>([
      ["--alpha is 7, on rank 0 5", { moreOf: (rank) => (rank === 1 ? ["--alpha", "7"] : []) }],
      ["the data set (--dataset and how it is read) is", { cwdOf: (rank) => (rank === 1 ? other : place) }],
    ])("%s", async (difference, own) => {
      const env = { ...environment(place, emulated), NEFTUNE_EMULATOR_DEVICES: "2" };
      const command = [...neftune, ...trainArguments(), "--device", "cuda", "--output", "refused"];
      const started = await startRanks(command, 2, env, { cwdOf: () => place, ...own });
      for (const [rank, { status, stderr }] of (await Promise.all(started.map(finished))).entries()) {
        expect(status).toBe(1);
        expect(stderr).toContain(
          `${rank === 0 ? "" : "rank 1: "}error: rank 1 differs from rank 0: ${difference}`,
        );
      }
      expect(existsSync(at("refused"))).toBe(false);
    });
  });
});
