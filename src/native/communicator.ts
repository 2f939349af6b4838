// A communicator: what joins the ranks of a run. All ranks make the same calls in the same order (kernels/neftune.h).

import { CString, ptr } from "bun:ffi";
import { NeftuneError } from "../errors.ts";
import type { NativeLibrary } from "./bindings.ts";
import type { Device } from "./device.ts";
import { NativeError } from "./native-error.ts";
import { activationCode } from "./ops/check.ts";
import { dtypeBytes, type Tensor } from "./tensor.ts";

/** The library that carries tensors between ranks: MPI between CPUs, NCCL between GPUs. */
export interface Transport {
  transport: "MPI" | "NCCL";
  path: string | null;
  version: string | null;
  /** Why it cannot be used, with the remedy. */
  problem: string | null;
  looked: string[];
}

/** Looks for a backend's transport. */
export function probeTransport(library: NativeLibrary): Transport {
  const json = new Uint8Array(16384);
  const status = library.functions.nt_comm_probe(json, json.length);
  if (status !== 0) throw new NativeError("nt_comm_probe", status, library.lastError());
  return JSON.parse(new CString(ptr(json)).toString()) as Transport;
}

/** Bytes of what one rank makes and gives to all before they create a communicator. */
const ID_BYTES = 128;

/** The id that all ranks need to create one communicator. */
export function makeCommunicatorId(device: Device): Uint8Array {
  const id = new Uint8Array(ID_BYTES);
  device.call("nt_comm_id", id);
  return id;
}

export interface Seat {
  rank: number;
  /** 0: whatever MPI says. */
  ranks: number;
  /** Of makeCommunicatorId; MPI needs none. */
  id: Uint8Array | null;
  /** Shared with a thread that sets it to anything but 0 where waiting for other ranks has no point any more. */
  stop: Int32Array;
}

export class Communicator {
  readonly rank: number;
  readonly ranks: number;
  readonly transport: Transport;
  readonly #device: Device;
  readonly #handle: number;
  /** The native side reads it as long as the communicator lives. */
  readonly #stop: Int32Array;

  /** Returns when all ranks are there. Throws NativeError where MPI and `seat` disagree, or the library is missing. */
  constructor(device: Device, seat: Seat) {
    const out = new BigUint64Array(1);
    this.#stop = seat.stop;
    device.call(
      "nt_comm_create",
      seat.rank,
      seat.ranks,
      seat.id ?? new Uint8Array(ID_BYTES),
      this.#stop,
      out,
    );
    this.#device = device;
    this.#handle = Number(out[0]);
    const json = new Uint8Array(16384);
    device.call("nt_comm_describe", this.#handle, json, json.length);
    const { rank, ranks, ...transport } = JSON.parse(new CString(ptr(json)).toString());
    this.rank = rank;
    this.ranks = ranks;
    this.transport = transport;
  }

  /** values = their sum over all ranks. Float32 or bf16. */
  allReduce(device: Device, values: Tensor): void {
    const code = contiguousCode("all_reduce", values);
    device.call("nt_comm_all_reduce", this.#handle, code, values.ptr, values.size);
  }

  /** y[n] = this rank's part of the sum of all ranks' x[ranks · n]. */
  reduceScatter(device: Device, y: Tensor, x: Tensor): void {
    this.#expectShares("reduce_scatter", y, x);
    device.call(
      "nt_comm_reduce_scatter",
      this.#handle,
      contiguousCode("reduce_scatter", y),
      y.ptr,
      x.ptr,
      y.size,
    );
  }

  /** y[ranks · n] = the x[n] of all ranks, in their order; x may be this rank's part of y. */
  allGather(device: Device, y: Tensor, x: Tensor): void {
    this.#expectShares("all_gather", x, y);
    device.call("nt_comm_all_gather", this.#handle, contiguousCode("all_gather", x), y.ptr, x.ptr, x.size);
  }

  /** values = those of rank `root`. */
  broadcast(device: Device, values: Tensor, root = 0): void {
    const code = contiguousCode("broadcast", values);
    device.call("nt_comm_broadcast", this.#handle, code, values.ptr, values.size, root);
  }

  barrier(device: Device): void {
    device.call("nt_comm_barrier", this.#handle);
  }

  /** From `true` to `false`, collectives run beside the work that is enqueued after them. */
  overlap(device: Device, on: boolean): void {
    device.call("nt_comm_overlap", this.#handle, on ? 1 : 0);
  }

  /** Waits for all work enqueued so far; throws NativeError where a rank is gone. */
  wait(device: Device): void {
    device.call("nt_comm_wait", this.#handle);
  }

  /** All ranks' bytes, in their order; each rank gives as many. */
  gatherBytes(device: Device, own: Uint8Array): Uint8Array[] {
    const words = Math.ceil(own.length / dtypeBytes.f32);
    if (words === 0) return Array.from({ length: this.ranks }, () => new Uint8Array());
    const all = device.allocate("f32", [this.ranks, words]);
    try {
      const padded = new Uint8Array(words * dtypeBytes.f32);
      padded.set(own);
      const part = all.rows(this.rank, 1).reshape([words]);
      device.write(part, padded);
      this.allGather(device, all, part);
      this.wait(device);
      const bytes = device.readBytes(all);
      return Array.from({ length: this.ranks }, (_, r) =>
        bytes.subarray(r * padded.length, r * padded.length + own.length),
      );
    } finally {
      device.free(all.ptr);
    }
  }

  /** In order: all ranks call it. */
  close(): void {
    this.#device.call("nt_comm_destroy", this.#handle);
  }

  /** After a failure: waits for no rank. Nothing else may be called then. */
  abort(): void {
    this.#device.call("nt_comm_abort", this.#handle);
  }

  #expectShares(op: string, share: Tensor, whole: Tensor): void {
    const fits = share.dtype === whole.dtype && share.size * this.ranks === whole.size && whole.contiguous;
    if (fits) return;
    throw new NeftuneError("shape", `${op}: ${whole} is not ${this.ranks} times ${share}`);
  }
}

function contiguousCode(op: string, tensor: Tensor): number {
  if (!tensor.contiguous) throw new NeftuneError("shape", `${op}: ${tensor} must be contiguous`);
  return activationCode(op, tensor);
}
