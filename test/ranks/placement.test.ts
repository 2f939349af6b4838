// Who this process is, from what every launcher sets.

import { describe, expect, test } from "bun:test";
import { firstHost, placementOf, rankOf } from "../../src/ranks/placement.ts";
import { patienceOf } from "../../src/ranks/ranks.ts";

const torchrun = {
  RANK: "3",
  LOCAL_RANK: "1",
  WORLD_SIZE: "4",
  MASTER_ADDR: "node0",
  MASTER_PORT: "29400",
  TORCHELASTIC_USE_AGENT_STORE: "True",
};
const slurm = {
  SLURM_JOB_ID: "123456",
  SLURM_STEP_ID: "0",
  SLURM_PROCID: "5",
  SLURM_LOCALID: "1",
  SLURM_NTASKS: "8",
  SLURM_STEP_NODELIST: "gpu[03-04],login1",
};
const openMpi = {
  OMPI_COMM_WORLD_RANK: "1",
  OMPI_COMM_WORLD_SIZE: "2",
  OMPI_COMM_WORLD_LOCAL_RANK: "1",
};

test("rankOf, of variables that may contradict themselves", () => {
  expect(rankOf({})).toBeNull();
  expect(rankOf({ RANK: "0" })).toBeNull();
  expect(rankOf({ ...torchrun, RANK: "0", WORLD_SIZE: "1" })).toBeNull();
  expect(rankOf({ ...torchrun, RANK: "x" })).toBeNull();
  expect([torchrun, slurm, openMpi].map(rankOf)).toEqual([3, 5, 1]);
  expect(rankOf({ RANK: "9", WORLD_SIZE: "4" })).toBe(9);
  expect(rankOf({ SLURM_JOB_ID: "1", SLURM_PROCID: "0", SLURM_NTASKS: "8" })).toBeNull();
});

describe("placementOf", () => {
  test("no launcher, or one rank: none", () => {
    expect(placementOf({})).toBeNull();
    expect(placementOf({ RANK: "0" })).toBeNull();
    expect(placementOf({ ...torchrun, RANK: "0", WORLD_SIZE: "1" })).toBeNull();
    expect(placementOf({ ...slurm, SLURM_PROCID: "0", SLURM_NTASKS: "1" })).toBeNull();
    expect(placementOf({ PMI_RANK: "0", PMI_SIZE: "1" })).toBeNull();
  });

  test("torchrun", () => {
    expect(placementOf(torchrun)).toEqual({
      rank: 3,
      size: 4,
      local: 1,
      launcher: "torchrun",
      master: { host: "node0", port: 29400 },
      hasStore: true,
    });
  });

  test("variables alone, as PyTorchJob sets them", () => {
    const { TORCHELASTIC_USE_AGENT_STORE: _store, LOCAL_RANK: _local, ...variables } = torchrun;
    expect(placementOf(variables)).toEqual({
      rank: 3,
      size: 4,
      local: null,
      launcher: "variables",
      master: { host: "node0", port: 29400 },
      hasStore: false,
    });
  });

  test("Slurm: rank 0 is on the first machine of the step, at the job's port", () => {
    expect(placementOf(slurm)).toEqual({
      rank: 5,
      size: 8,
      local: 1,
      launcher: "slurm",
      master: { host: "gpu03", port: 20_000 + (123_456 % 20_000) },
      hasStore: false,
    });
    const named = placementOf({ ...slurm, MASTER_ADDR: "head", MASTER_PORT: "1234" });
    expect(named?.master).toEqual({ host: "head", port: 1234 });
    expect(placementOf({ ...slurm, SLURM_STEP_NUM_TASKS: "6" })?.size).toBe(6);
  });

  test("a batch script beside its steps is one process", () => {
    const { SLURM_STEP_ID: _step, ...script } = slurm;
    expect(placementOf({ ...script, SLURM_PROCID: "0" })).toBeNull();
  });

  test("MPI's own variables go before those of the Slurm job that mpirun runs in", () => {
    const mpi = { rank: 1, size: 2, local: 1, launcher: "mpi", master: null, hasStore: false };
    expect(placementOf({ ...slurm, ...openMpi })).toEqual(mpi as never);
    const hydra = { PMI_RANK: "1", PMI_SIZE: "2", MPI_LOCALRANKID: "1" };
    expect(placementOf({ ...slurm, ...hydra })).toEqual(mpi as never);
    expect(placementOf({ PMIX_RANK: "1", PMIX_SIZE: "2" })).toEqual({ ...mpi, local: null } as never);
    // srun --mpi=pmi2: both speak of the same rank
    expect(placementOf({ ...slurm, PMI_RANK: "5", PMI_SIZE: "8" })?.launcher).toBe("slurm");
  });

  test.each([
    [{ WORLD_SIZE: "2" }, "RANK is not set"],
    [{ ...torchrun, RANK: "4" }, "RANK=4 and WORLD_SIZE=4"],
    [{ ...torchrun, RANK: "-1" }, "RANK=-1: expected a whole number"],
    [{ ...torchrun, WORLD_SIZE: "two" }, "WORLD_SIZE=two"],
    [{ ...torchrun, MASTER_PORT: "70000" }, "MASTER_PORT=70000"],
    [{ RANK: "0", WORLD_SIZE: "2" }, "MASTER_ADDR is not set"],
  ])("%p is refused", (env, message) => {
    expect(() => placementOf(env)).toThrow(message);
  });
});

test.each([
  ["node7", "node7"],
  ["node7,node9", "node7"],
  ["gpu[03-05,09]-ib", "gpu03-ib"],
  ["r[1-2]n[04-05]", "r1n04"],
  ["a[7]", "a7"],
])("the first host of %p is %p", (list, host) => {
  expect(firstHost(list)).toBe(host);
});

test("NEFTUNE_COMM_TIMEOUT: four fifths of it are for waiting", () => {
  expect(patienceOf({})).toBe(48_000);
  expect(patienceOf({ NEFTUNE_COMM_TIMEOUT: "10" })).toBe(8000);
  expect(() => patienceOf({ NEFTUNE_COMM_TIMEOUT: "soon" })).toThrow("NEFTUNE_COMM_TIMEOUT=soon");
});
