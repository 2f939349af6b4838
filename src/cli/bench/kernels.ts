// What the kernels of a step took, and how near that is to what the device could do: the roofline.

import { type KernelRun, kernelRuns, type RecordedCall } from "../../native/index.ts";
import { fitTable } from "../terminal/format.ts";
import type { DeviceRates } from "./rates.ts";

/** One kernel of one operation, over a step. */
export interface KernelUse {
  operation: string;
  kernel: string;
  launches: number;
  /** By events on the device, summed. */
  seconds: number;
  /** The fewest bytes of device memory and operations; null: not known. */
  bytes: number | null;
  flops: number | null;
}

/** Of a recorded step, the longest first. `nameOf` a run: those of an operation with equal names are one row. */
export function kernelUses(
  calls: readonly RecordedCall[],
  nameOf: (run: KernelRun) => string = ({ name }) => name,
): KernelUse[] {
  const uses = new Map<string, KernelUse>();
  for (const call of calls) {
    const operation = call.name.replace(/^nt_/, "");
    for (const run of kernelRuns(call)) {
      const kernel = nameOf(run).replace(/_kernel$/, "");
      const key = `${operation} ${kernel}`;
      const use = uses.get(key) ?? { operation, kernel, launches: 0, seconds: 0, bytes: 0, flops: 0 };
      use.launches += run.launches.length;
      use.seconds += run.launches.reduce((sum, { seconds }) => sum + seconds, 0);
      use.bytes = run.work === null || use.bytes === null ? null : use.bytes + run.work.bytes;
      use.flops = run.work === null || use.flops === null ? null : use.flops + run.work.flops;
      uses.set(key, use);
    }
  }
  return [...uses.values()].sort((a, b) => b.seconds - a.seconds);
}

/** Whether it goes over the bus between host and device. */
export const isTransfer = ({ kernel }: Pick<KernelUse, "kernel">) => /^copy to the/.test(kernel);

/** The least that it takes at the device's measured rates; null: not known. */
export function boundSeconds(use: KernelUse, rates: DeviceRates): number | null {
  const { bytes, flops } = use;
  if (bytes === null || flops === null || isTransfer(use)) return null;
  return Math.max(bytes / rates.copy, flops / rates.matmul);
}

/** The kernels as a report has them. */
export function kernelRows(uses: readonly KernelUse[], rates: DeviceRates) {
  return uses.map((use) => {
    const bound = boundSeconds(use, rates);
    return { ...use, bound_seconds: bound, share_of_bound: bound === null ? null : bound / use.seconds };
  });
}

export type KernelRow = ReturnType<typeof kernelRows>[number];

/** As text for a terminal of `columns` (undefined: any): rates beside the share of the bound. */
export function kernelTable(rows: readonly KernelRow[], columns?: number): string {
  const total = rows.reduce((sum, { seconds }) => sum + seconds, 0);
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  const rate = (amount: number | null, seconds: number, unit: number) =>
    amount === null || amount === 0 || seconds === 0 ? "–" : (amount / seconds / unit).toFixed(0);
  // One column of names: it comes again where the others do not fit beside it.
  const operations = Math.max(...rows.map(({ operation }) => operation.length), "operation".length);
  const name = (operation: string, kernel: string) => `  ${operation.padEnd(operations)}  ${kernel}`;
  return fitTable(
    [
      [name("operation", "kernel"), "launches", "ms", "share", "GB/s", "GFLOP/s", "of bound"],
      ...rows.map(({ operation, kernel, launches, seconds, bytes, flops, share_of_bound: share }) => [
        name(operation, kernel),
        String(launches),
        (1e3 * seconds).toFixed(3),
        percent(seconds / total),
        rate(bytes, seconds, 1e9),
        rate(flops, seconds, 1e9),
        share === null || share === 0 ? "–" : percent(share),
      ]),
    ],
    [1, 2, 3, 4, 5, 6],
    columns,
  );
}
