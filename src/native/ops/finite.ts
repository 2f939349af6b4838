// Counting values that are NaN or infinite.

import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { expectContiguous, storedCode } from "./check.ts";

/** count[0] += how many of `source`'s values are NaN or infinite. `count`: i32. */
export function addNonFinite(device: Device, count: Tensor, source: Tensor): void {
  expectContiguous("count_non_finite", "source", source);
  const code = storedCode("count_non_finite", source);
  device.call("nt_count_non_finite", count.ptr, source.ptr, code, source.size);
}

/** How many of `source`'s values are NaN or infinite. Waits for the work enqueued before. */
export function countNonFinite(device: Device, source: Tensor): number {
  const count = device.allocate("i32", [1]);
  try {
    device.fill(count, 0);
    addNonFinite(device, count, source);
    return device.readInts(count)[0]!;
  } finally {
    device.free(count.ptr);
  }
}
