// Random tensors: initial values of weights.

import { PhiloxStream } from "../../philox-streams.ts";
import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { activationCode } from "./check.ts";

/** tensor = scale · U(−1, 1) or N(0, 1); `draw` tells tensors of one seed apart. */
export function random(
  device: Device,
  tensor: Tensor,
  kind: "uniform" | "normal",
  scale: number,
  seed: number,
  draw: number,
): void {
  const code = activationCode("random", tensor);
  device.call(
    "nt_random",
    code,
    tensor.ptr,
    tensor.size,
    kind === "normal" ? 1 : 0,
    scale,
    seed,
    draw,
    PhiloxStream.init,
  );
}
