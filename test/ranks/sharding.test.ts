// Ranks that divide the parameters of full tuning (--shard) have, together, what one process has.

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Optimizer } from "../../src/model/index.ts";
import { layOutBucket, pieceOf } from "../../src/model/shard-layout.ts";
import { Communicator, makeCommunicatorId, probeTransport } from "../../src/native/index.ts";
import { loadCudaLibrary } from "../../src/native/library.ts";
import { type Backend, backends, emulated, openBackend } from "../backends.ts";
import { compareDivided } from "./divided.ts";
import { canRunMpi, finished, linesByRank, runMpi, startRanks } from "./support.ts";
import {
  environment,
  lossDifference,
  makePlace,
  metricsOf,
  neftune,
  trainArguments,
  valueDifference,
} from "./training.ts";

setDefaultTimeout(120_000);
const hasMpi = canRunMpi();

describe("a bucket", () => {
  const sizes = [64 * 65, 67 * 63, 31 * 9, 4096, 1];
  const tensors = sizes.map((size, i) => ({
    ...{ name: `t${i}`, part: "weights" as const, shape: [size], laid: [size], decay: true },
    ...{ offset: 0, size },
  }));

  test.each([
    ["adamw", 1],
    ["adamw", 3],
    ["adamw8bit", 2],
    ["adamw8bit", 5],
    ["adamw8bit", 64],
  ] satisfies [Optimizer, number][])("of %s and %p ranks: every value has one owner", (optimizer, ranks) => {
    const layout = layOutBucket(tensors, ranks, optimizer);
    expect(layout.size).toBe(ranks * layout.share);
    for (const tensor of layout.tensors) {
      let next = 0;
      for (let rank = 0; rank < ranks; rank++) {
        const piece = pieceOf(layout, tensor, rank);
        if (piece === null) continue;
        expect(piece.begin).toBe(next);
        expect(rank * layout.share + piece.offset).toBe(tensor.offset + piece.begin);
        expect(piece.offset + piece.count).toBeLessThanOrEqual(layout.share);
        if (optimizer === "adamw8bit" && tensor.size >= 4096) expect(piece.begin % 256).toBe(0);
        next += piece.count;
      }
      expect(next).toBe(tensor.size);
    }
  });
});

describe("values, moments, norms and files' tensors are those of parameters that are not divided", () => {
  const child = [process.execPath, join(import.meta.dir, "sharding-child.ts")];
  const expected = (ranks: number) =>
    Array.from({ length: ranks }, (_, rank) => ({ rank, differences: [], spoiled: ["up", "gate", null] }));

  // On a real GPU, where there is one: NCCL, and exchanges in a stream of their own.
  for (const backend of backends.filter(({ kind }) => kind !== "cpu")) {
    const problem = backend.kind === "cuda" ? probeTransport(loadCudaLibrary(backend.env)).problem : null;
    const name = `one rank alone, ${backend.kind}${problem === null ? "" : ` (skipped: ${problem})`}`;
    test.skipIf(problem !== null)(name, () => compareAlone(backend));
  }
  function compareAlone(backend: Backend): void {
    const device = openBackend(backend);
    const seat = { rank: 0, ranks: 1, id: makeCommunicatorId(device), stop: new Int32Array(1) };
    const comm = new Communicator(device, seat);
    for (const [optimizer, dtype] of [
      ["adamw8bit", "bf16"],
      ["adamw", "f32"],
    ] as const) {
      const partners = { rank: 0, size: 1, seconds: 0, comm };
      const found = compareDivided(device, partners, dtype, optimizer);
      expect(found).toEqual({ differences: [], spoiled: ["up", "gate", null] });
      expect(partners.seconds).toBeGreaterThan(0);
    }
    comm.close();
    device.close();
  }

  test.skipIf(!hasMpi).each([
    [3, "adamw8bit", "bf16"],
    [2, "adamw", "f32"],
  ])("%p ranks, %s, %s", async (ranks, OPTIMIZER, DTYPE) => {
    const { status, stdout, stderr } = await runMpi("mpich", ranks, child, { OPTIMIZER, DTYPE });
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(linesByRank(stdout)).toEqual(expected(ranks));
  });

  test.skipIf(emulated === undefined)("on GPUs, with work that waits in the stream", async () => {
    const devices = { KIND: "cuda", NEFTUNE_EMULATOR_DEVICES: "2", NEFTUNE_EMULATOR_SEED: "5" };
    const own = { OPTIMIZER: "adamw8bit", DTYPE: "bf16" };
    const started = await startRanks(child, 2, { ...emulated!.env, ...devices, ...own });
    const all = await Promise.all(started.map(finished));
    expect(all.map(({ stderr }) => stderr)).toEqual(["", ""]);
    expect(linesByRank(all.map(({ stdout }) => stdout).join("\n"))).toEqual(expected(2));
  });
});

describe.skipIf(!hasMpi)("runs", () => {
  const place = makePlace();
  afterAll(() => rmSync(place, { recursive: true }));
  const at = (output: string) => join(place, output);
  const full = ["--tune", "full", "--save-dtype", "f32", "--device", "cpu"];

  async function run(
    ranks: number,
    training: readonly string[],
    output: string,
    ...more: string[]
  ): Promise<void> {
    const command = [...neftune, ...training, ...full, "--output", output, ...more];
    const { status, stderr } = await runMpi("mpich", ranks, command, environment(place), place);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  }

  test("a resumed run has the bits of one never stopped; other ranks, and ranks that divide nothing, go on from it", async () => {
    const options = ["--optim", "adamw8bit", "--save-steps", "2", "--lr-scheduler-type", "constant"];
    await run(3, trainArguments(7), "whole", ...options);
    await run(3, trainArguments(2), "changing", ...options);
    await run(3, trainArguments(4), "changing", ...options, "--resume");
    const state = (output: string, name: string) =>
      readFileSync(at(`${output}/checkpoints/step-00000004/${name}`));
    for (const name of ["model.safetensors", "optimizer.safetensors"])
      expect(state("changing", name).equals(state("whole", name))).toBe(true);
    await run(2, trainArguments(5), "changing", ...options, "--resume", "--shard", "none");
    await run(1, trainArguments(6), "changing", ...options, "--resume");
    await run(4, trainArguments(7), "changing", ...options, "--resume");
    expect(lossDifference(at("changing"), at("whole"))).toBeLessThan(2e-6);
    expect(valueDifference(at("changing"), at("whole"))).toBeLessThan(1e-5);
  });

  test("in bf16 ranks that divide train as those that do not", async () => {
    await run(3, trainArguments(3, { dtype: "bf16" }), "divided");
    await run(3, trainArguments(3, { dtype: "bf16" }), "not divided", "--shard", "none");
    expect(lossDifference(at("divided"), at("not divided"))).toBeLessThan(2e-6);
    expect(valueDifference(at("divided"), at("not divided"))).toBeLessThan(1e-5);
  });

  test("the best evaluation's model is the result", async () => {
    const options = ["--eval-steps", "1", "--load-best-model-at-end", "--lr-scheduler-type", "constant"];
    const tooFast = trainArguments(3, { learningRate: 0.1 });
    await run(2, tooFast, "best", ...options);
    const evaluations = metricsOf(at("best")).filter(({ eval_loss }) => eval_loss !== undefined);
    const best = evaluations.reduce((a, b) => (b.eval_loss! < a.eval_loss! ? b : a)).step;
    expect(best).toBeLessThan(3);
    expect(readdirSync(at("best/checkpoints"))).toContain(`step-0000000${best}`);
    expect(valueDifference(at("best"), at(`best/checkpoints/step-0000000${best}`))).toBe(0);
  });
});
