// What a stretch of work asks of a GPU: every native call with the kernels, products and copies that it enqueued, and how
// long each of them ran, by events around it. Nothing is waited for in between.

import type { Argument, FunctionName } from "./bindings.ts";

/** c[m,n] = a[m,k]·b[k,n]. */
export interface Product {
  m: number;
  n: number;
  k: number;
  /** Bytes of an element of a and b, and of c. */
  operandBytes: number;
  resultBytes: number;
  /** c is read, too. */
  accumulates: boolean;
}

export interface Launch {
  /** A kernel without its template arguments, "matmul", "product_plain" or "few_rows" (products), or a copy. */
  name: string;
  seconds: number;
  /** Of a kernel's grid. */
  blocks: number;
  /** That a copy reads and writes, or a product whose weight is not stored as its operands are; 0 otherwise. */
  copiedBytes: number;
  product: Product | null;
}

export interface RecordedCall {
  name: FunctionName;
  args: readonly Argument[];
  /** That the host spent in the call. */
  hostSeconds: number;
  launches: Launch[];
}

/** Calls that return only when the device has done its work. */
const waits: ReadonlySet<string> = new Set<FunctionName>([
  "nt_copy_to_host",
  "nt_synchronize",
  "nt_comm_wait",
]);

/** Of a profile by native function: the seconds in which the host waited for the device. */
export function waitingSeconds(profile: ReadonlyMap<string, { seconds: number }>): number {
  let seconds = 0;
  for (const [name, entry] of profile) if (waits.has(name)) seconds += entry.seconds;
  return seconds;
}

type Item = [
  call: number,
  name: number,
  milliseconds: number,
  blocks: number,
  bytes: number,
  ...product: number[],
];

/** Adds to each call what nt_timeline_read's JSON says of it. */
export function addLaunches(calls: readonly RecordedCall[], json: string): void {
  const { names, items } = JSON.parse(json) as { names: string[]; items: Item[] };
  for (const [call, name, milliseconds, blocks, copiedBytes, ...product] of items) {
    const [m, n, k, operandBytes = 0, resultBytes = 0, accumulates] = product;
    calls[call]!.launches.push({
      name: names[name]!,
      seconds: milliseconds / 1000,
      blocks,
      copiedBytes,
      product:
        m === undefined || n === undefined || k === undefined
          ? null
          : { m, n, k, operandBytes, resultBytes, accumulates: accumulates === 1 },
    });
  }
}
