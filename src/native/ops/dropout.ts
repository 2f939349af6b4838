// Dropout in front of LoRA. Formulas: kernels/neftune.h.

import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { activationCode, expectMatrix } from "./check.ts";
import type { SampleBorders } from "./sample-borders.ts";

/** LoRA dropout of one module. */
export interface Dropout {
  p: number;
  seed: number;
  /** Which module of the model: each has a mask of its own. */
  module: number;
  draws: BigInt64Array;
}

/** y[T,C] = mask ∘ x / (1 − p), or y += with accumulate. y may be x. */
export function dropout(
  device: Device,
  y: Tensor,
  x: Tensor,
  samples: SampleBorders,
  options: Dropout,
  accumulate = false,
): void {
  const op = "dropout";
  expectMatrix(op, "y", y, x.dtype, x.rowCount, x.columnCount);
  device.call(
    "nt_dropout",
    activationCode(op, x),
    y.ptr,
    y.rowStride,
    x.ptr,
    x.rowStride,
    x.rowCount,
    x.columnCount,
    options.p,
    options.seed,
    options.module,
    accumulate ? 1 : 0,
    samples.cuSeqlens,
    options.draws,
    samples.cuSeqlens.length - 1,
  );
}
