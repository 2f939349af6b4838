// Functions of communicators refuse wrong arguments before they wait for any rank. What ranks exchange: test/ranks.

import { expect, test } from "bun:test";
import type { Argument, FunctionName } from "../../src/native/bindings.ts";
import { dtypeCode, makeCommunicatorId, NativeError } from "../../src/native/index.ts";
import { emulated, openBackend } from "../backends.ts";
import { forEachBackend } from "./harness.ts";

const { f32 } = dtypeCode;

/** Arguments of each function behind the communicator: no elements, from rank 0. */
const collectives: [FunctionName, readonly Argument[]][] = [
  ["nt_comm_all_reduce", [f32, null, 0]],
  ["nt_comm_reduce_scatter", [f32, null, null, 0]],
  ["nt_comm_all_gather", [f32, null, null, 0]],
  ["nt_comm_broadcast", [f32, null, 0, 0]],
  ["nt_comm_barrier", []],
  ["nt_comm_overlap", [0]],
  ["nt_comm_wait", []],
];

forEachBackend((device) => {
  test.each(collectives)("%s without a communicator", (name, rest) => {
    const refused = () => device.call(name, null, ...rest);
    expect(refused).toThrow(NativeError);
    expect(refused).toThrow(`${name.slice(3)}: there is no communicator`);
  });

  test.each([
    [0, -1, "ranks must be between 1 and 65536, got -1"],
    [0, 65537, "ranks must be between 1 and 65536, got 65537"],
    [-1, 2, "rank must be between 0 and 1, got -1"],
    [2, 2, "rank must be between 0 and 1, got 2"],
  ])("rank %p of %p", (rank, ranks, message) => {
    const create = () =>
      device.call(
        "nt_comm_create",
        rank,
        ranks,
        new Uint8Array(128),
        new Int32Array(1),
        new BigUint64Array(1),
      );
    expect(create).toThrow(`comm_create: ${message}`);
  });
});

// MPI is a process's once, and what is asked of arguments is the same code: NCCL's stand-in is enough.

test.skipIf(emulated === undefined)("a communicator of one rank", () => {
  const device = openBackend(emulated!);
  const out = new BigUint64Array(1);
  device.call("nt_comm_create", 0, 1, makeCommunicatorId(device), new Int32Array(1), out);
  const comm = Number(out[0]);
  const refusal = (name: FunctionName, rest: readonly Argument[], message: string) => {
    const refused = () => device.call(name, comm, ...rest);
    expect(refused, message).toThrow(NativeError);
    expect(refused).toThrow(`${name.slice(3)}: ${message}`);
  };
  for (const [name, rest] of collectives) device.call(name, comm, ...rest);

  for (const [name, rest] of collectives.slice(0, 4)) {
    const count = name === "nt_comm_broadcast" ? 2 : rest.length - 1;
    refusal(name, rest.with(0, 7), "dtype must be f32 or bf16, got 7");
    refusal(name, rest.with(count, -1), "n must be ≥ 0 and fit memory, got -1");
    refusal(name, rest.with(count, 2 ** 62), "n must be ≥ 0 and fit memory, got 4611686018427387904");
    refusal(name, rest.with(count, 5), "a null pointer for 5 elements");
  }
  const data = device.allocate("f32", [5]);
  for (const name of ["nt_comm_reduce_scatter", "nt_comm_all_gather"] as const) {
    refusal(name, [f32, data.ptr, null, 5], "a null pointer for 5 elements");
    refusal(name, [f32, null, data.ptr, 5], "a null pointer for 5 elements");
  }
  for (const root of [-1, 1])
    refusal("nt_comm_broadcast", [f32, null, 0, root], `root must be between 0 and 0, got ${root}`);

  device.call("nt_comm_abort", comm);
  for (const [name, rest] of collectives) refusal(name, rest, "the communicator was aborted");
  device.call("nt_comm_destroy", comm);
  device.free(data.ptr);
  device.close();
});
