// All ranks of a run, seen from one of them: its device, the communicator, and small exchanges.

import type { Communicator, Device, Tensor } from "../native/index.ts";
import type { Ranks } from "./ranks.ts";

export interface Machine {
  /** This rank's place among those of its machine. */
  rank: number;
  /** How many run on it. */
  ranks: number;
  /** How many machines the run has. */
  machines: number;
}

/** The most numbers that `sum` takes. */
const MOST_NUMBERS = 16;
const WORDS_PER_NUMBER = 2;

export class Team {
  readonly ranks: Ranks;
  readonly device: Device;
  readonly comm: Communicator;
  readonly machine: Machine;
  /** Seconds spent in exchanges, waiting for other ranks included. */
  seconds = 0;
  readonly #bootstrap: Communicator | null;
  readonly #closeDevice: () => void;
  readonly #mailbox: Tensor; // f32 [ranks, words]

  /** Owns all of it; `bootstrap` brought the ranks together and may be `comm`. */
  constructor(
    ranks: Ranks,
    device: Device,
    comm: Communicator,
    machine: Machine,
    bootstrap: Communicator | null,
  ) {
    this.ranks = ranks;
    this.device = device;
    this.comm = comm;
    this.machine = machine;
    this.#bootstrap = bootstrap;
    this.#closeDevice = device.lend();
    this.#mailbox = device.allocate("f32", [ranks.size, MOST_NUMBERS * WORDS_PER_NUMBER]);
  }

  get rank(): number {
    return this.ranks.rank;
  }

  get size(): number {
    return this.ranks.size;
  }

  /** Rank 0 writes the files and says how the run goes. */
  get isFirst(): boolean {
    return this.rank === 0;
  }

  /** Whether the i-th piece of work, dealt in turn, is this rank's. */
  isOwn(i: number): boolean {
    return i % this.size === this.rank;
  }

  /** Does `exchange` once all earlier work is done, and counts its seconds. */
  timed<T>(exchange: () => T): T {
    this.comm.wait(this.device);
    const start = performance.now();
    const result = exchange();
    this.seconds += (performance.now() - start) / 1000;
    return result;
  }

  /** Sums over all ranks of at most 16 numbers, added in the order of the ranks. Waits for all work. */
  sum(numbers: readonly number[]): number[] {
    const own = new Float64Array(MOST_NUMBERS);
    own.set(numbers);
    const part = this.#mailbox.rows(this.rank, 1).reshape([this.#mailbox.columnCount]);
    this.device.write(part, new Uint8Array(own.buffer));
    this.comm.allGather(this.device, this.#mailbox, part);
    this.comm.wait(this.device);
    const all = new Float64Array(this.device.readBytes(this.#mailbox).buffer);
    return numbers.map((_, i) => {
      let sum = 0;
      for (let r = 0; r < this.size; r++) sum += all[r * MOST_NUMBERS + i]!;
      return sum;
    });
  }

  /** All ranks' bytes, in their order, of any number each. */
  gather(own: Uint8Array): Uint8Array[] {
    const sizes = this.comm
      .gatherBytes(this.device, new Uint8Array(Float64Array.of(own.length).buffer))
      .map((bytes) => new DataView(bytes.buffer, bytes.byteOffset).getFloat64(0, true));
    const padded = new Uint8Array(Math.max(...sizes));
    padded.set(own);
    return this.comm.gatherBytes(this.device, padded).map((bytes, r) => bytes.slice(0, sizes[r]));
  }

  /** In order, on all ranks: waits until all have done their work. Throws RankError. */
  async close(): Promise<void> {
    await this.ranks.share("");
    this.device.free(this.#mailbox.ptr);
    this.comm.close();
    if (this.#bootstrap !== this.comm) this.#bootstrap?.close();
    await this.ranks.close();
    this.#closeDevice();
  }
}

/** Does work that leaves its result on the machine once for each machine, then, with that at hand, on its other ranks. */
export async function oneByMachine<T>(team: Team | null, work: () => Promise<T>): Promise<T> {
  if (team === null) return work();
  const isFirst = team.machine.rank === 0;
  const made = isFirst ? await work() : null;
  await team.ranks.share("");
  return isFirst ? (made as T) : work();
}

/** What a rank is told of memory that others of its machine take, too; nothing where each has a GPU of its own. */
export async function sharedMemory(
  { ranks, machine }: Team,
  device: Device,
): Promise<{ sharing?: { ranks: number; free: number } }> {
  const free = device.freeMemory();
  // None takes any before all have seen what is free.
  await ranks.share("");
  return device.isHost ? { sharing: { ranks: machine.ranks, free } } : {};
}
