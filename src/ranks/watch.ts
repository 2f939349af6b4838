// What the thread that keeps in touch with the other ranks and the main thread say to each other.

import type { Address } from "./dial.ts";

/** Indices of the numbers that both threads see. */
export const Shared = {
  /** Not 0: a rank failed, and waiting for others has no point. Native code looks at it, too. */
  stop: 0,
  /** Not 0: one of the two threads has taken it upon itself to tell. */
  told: 1,
  count: 2,
} as const;

/** What the thread begins with. */
export interface Watch {
  rank: number;
  size: number;
  /** Of Shared. */
  state: SharedArrayBuffer;
  /** Until a rank that is not heard of is given up. */
  patience: number;
  meeting:
    | { kind: "master"; address: Address }
    /** torchrun's store: rank 0 leaves its address under the key. */
    | { kind: "store"; address: Address; key: string }
    /** The main threads hand on rank 0's addresses, by "listening" and "meet". */
    | { kind: "given" };
}

export type ToWatcher =
  | { kind: "start"; watch: Watch }
  /** Where rank 0 of a "given" meeting is. */
  | { kind: "meet"; addresses: Address[] }
  | { kind: "share"; round: number; text: string }
  | { kind: "fail"; sentence: string; status: number }
  | { kind: "close" };

export type FromWatcher =
  /** Rank 0 of a "given" meeting can be reached there. */
  | { kind: "listening"; addresses: Address[] }
  | { kind: "joined" }
  | { kind: "shared"; round: number; texts: string[] }
  /** A rank failed: the sentence that ends every rank. */
  | { kind: "failed"; sentence: string; status: number }
  /** All ranks know of the failure, or have said goodbye. */
  | { kind: "done" };
