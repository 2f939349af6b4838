// A linear layer's weight as products take it.

import { NeftuneError } from "../../errors.ts";
import type { ActivationDType } from "../../floats.ts";
import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { activationCode } from "./check.ts";
import { type Nf4, nf4Words } from "./nf4.ts";

/**
 * A linear layer's weight [out, in] on the device, in the activations' dtype or in NF4, or a stack of such weights. Borrows
 * its memory; destroy() before that goes.
 */
export class Weight {
  readonly out: number;
  readonly in: number;
  /** What activations have to be. */
  readonly dtype: ActivationDType;
  readonly handle: number;
  readonly #device: Device;

  private constructor(device: Device, dtype: ActivationDType, out: number, inputs: number, handle: number) {
    this.out = out;
    this.in = inputs;
    this.dtype = dtype;
    this.handle = handle;
    this.#device = device;
  }

  /** Of a tensor [out, in], which may lie in wider rows. */
  static dense(device: Device, data: Tensor): Weight {
    const op = "weight_create";
    const [out, inputs] = [data.rowCount, data.columnCount];
    const handle = new BigUint64Array(1);
    const code = activationCode(op, data);
    device.call("nt_weight_create", code, out, inputs, data.ptr, data.rowStride, handle);
    return new Weight(device, data.dtype as ActivationDType, out, inputs, Number(handle[0]));
  }

  /** Of an NF4 tensor [out, in]. `scratch`: at least out · in values of the activations' dtype, shared by all weights. */
  static nf4(device: Device, data: Nf4, scratch: Tensor): Weight {
    const op = "weight_create_nf4";
    const [out = 0, inputs = 0] = data.shape;
    const dtype = activationCode(op, scratch);
    if (data.shape.length !== 2 || scratch.size < out * inputs)
      throw new NeftuneError("shape", `${op}: [${data.shape}] does not fit into scratch ${scratch}`);
    const handle = new BigUint64Array(1);
    device.call("nt_weight_create_nf4", dtype, out, inputs, nf4Words(data), scratch.ptr, handle);
    return new Weight(device, scratch.dtype as ActivationDType, out, inputs, Number(handle[0]));
  }

  /** Of weights on top of each other, one or more, of the same inputs and dtype. They have to outlive its products. */
  static stack(device: Device, parts: readonly Weight[]): Weight {
    const handles = BigUint64Array.from(parts, (part) => BigInt(part.handle));
    const handle = new BigUint64Array(1);
    device.call("nt_weight_create_stack", handles, parts.length, handle);
    const out = parts.reduce((sum, part) => sum + part.out, 0);
    return new Weight(device, parts[0]!.dtype, out, parts[0]!.in, Number(handle[0]));
  }

  destroy(): void {
    this.#device.call("nt_weight_destroy", this.handle);
  }
}
