// RMSNorm where the residual stream is read. H: hidden size.

import { type Device, rmsnormBackward, rmsnormForward, type Tensor } from "../native/index.ts";
import type { NormActivations } from "./activations.ts";

export interface Norm {
  weight: Tensor; // f32 [H], of heads [headDim]
  dweight: Tensor | null;
  eps: number;
}

/** a.normed = RMSNorm(a.x). */
export function normForward(device: Device, { weight, eps }: Norm, a: NormActivations): void {
  rmsnormForward(device, a.normed, a.rstd, a.x, weight, eps);
}

/** a.x = x + delta; a.normed = RMSNorm(a.x). */
export function addNormForward(
  device: Device,
  { weight, eps }: Norm,
  a: NormActivations,
  x: Tensor,
  delta: Tensor,
): void {
  rmsnormForward(device, a.normed, a.rstd, x, weight, eps, { delta, sum: a.x });
}

/** dx = the gradient of a.x: through the norm from dy, and `past` it where the residual stream goes on. */
export function normBackward(
  device: Device,
  norm: Norm,
  dx: Tensor,
  dy: Tensor,
  { x, rstd }: NormActivations,
  past: Tensor | null,
): void {
  rmsnormBackward(device, dx, norm.dweight, dy, x, norm.weight, rstd, past);
}
