// The head and its loss in one. Formulas: kernels/neftune.h.

import { NeftuneError } from "../../errors.ts";
import type { ActivationDType } from "../../floats.ts";
import type { Device } from "../device.ts";
import { dtypeCode, type Tensor } from "../tensor.ts";
import { activationCode, expectContiguous, expectMatrix, expectVector } from "./check.ts";
import type { Weight } from "./weight.ts";

/** Bytes of workspace that linearCrossEntropy runs well with, where the weight is dense. */
export function crossEntropyWorkspace(
  device: Device,
  dtype: ActivationDType,
  rows: number,
  hidden: number,
  vocab: number,
  withDweight: boolean,
): number {
  const bytes = new BigInt64Array(1);
  device.call(
    "nt_linear_cross_entropy_workspace",
    dtypeCode[dtype],
    rows,
    hidden,
    vocab,
    Number(withDweight),
    bytes,
  );
  return Number(bytes[0]);
}

/** Where gradients of the loss go; absent: evaluation. */
export interface CrossEntropyGradients {
  /** [T,H], every row written. */
  dx: Tensor | null;
  /** float32 [V,H], added to. */
  dweight: Tensor | null;
  /** 1 / (target tokens of the whole step). */
  scale: number;
}

/** losses[i] = cross-entropy of row rows[i] of x[T,H] through the weight [V,H] against targets[i]. */
export function linearCrossEntropy(
  device: Device,
  losses: Tensor,
  x: Tensor,
  weight: Weight,
  rows: Int32Array,
  targets: Int32Array,
  workspace: Tensor,
  gradients: CrossEntropyGradients | null = null,
): void {
  const op = "linear_cross_entropy";
  const n = rows.length;
  if (targets.length !== n) throw new NeftuneError("shape", `${op}: ${n} rows but ${targets.length} targets`);
  expectVector(op, "losses", losses, "f32", n);
  expectMatrix(op, "x", x, weight.dtype, x.rowCount, weight.in);
  expectContiguous(op, "x", x);
  const { dx = null, dweight = null, scale = 0 } = gradients ?? {};
  if (dx !== null) {
    expectMatrix(op, "dx", dx, x.dtype, x.rowCount, weight.in);
    expectContiguous(op, "dx", dx);
  }
  if (dweight !== null) expectMatrix(op, "dweight", dweight, "f32", weight.out, weight.in);
  device.call(
    "nt_linear_cross_entropy",
    activationCode(op, x),
    losses.ptr,
    dx?.ptr ?? null,
    dweight?.ptr ?? null,
    x.ptr,
    weight.handle,
    rows,
    targets,
    n,
    x.rowCount,
    scale,
    workspace.ptr,
    workspace.bytes,
  );
}
