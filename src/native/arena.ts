// One block of device memory, planned before it is allocated. The code that lays tensors out runs twice: on a
// MemoryPlan, which only counts, and on an Arena, which hands out addresses. So the plan cannot differ from what is used.

import { NeftuneError } from "../errors.ts";
import type { Device } from "./device.ts";
import { type DType, dtypeBytes, sizeOf, Tensor } from "./tensor.ts";

/** What memory is for; plans and out-of-memory messages add it up by these. */
export type MemoryUse = "weights" | "trained" | "activations" | "workspace";

const slotBytes = 256;

/** Bytes of memory that a tensor takes. */
const slotSize = (dtype: DType, shape: readonly number[]) =>
  Math.ceil((sizeOf(shape) * dtypeBytes[dtype]) / slotBytes) * slotBytes;

export interface Allocator {
  allocate(use: MemoryUse, dtype: DType, shape: readonly number[]): Tensor;
}

/** Counts what would be allocated. Its tensors have shapes but no memory. */
export class MemoryPlan implements Allocator {
  readonly bytes: Record<MemoryUse, number> = { weights: 0, trained: 0, activations: 0, workspace: 0 };

  allocate(use: MemoryUse, dtype: DType, shape: readonly number[]): Tensor {
    this.bytes[use] += slotSize(dtype, shape);
    return new Tensor(0, dtype, shape);
  }

  get total(): number {
    return this.bytes.weights + this.bytes.trained + this.bytes.activations + this.bytes.workspace;
  }
}

/** Hands out 256-byte aligned slots of one block, which it owns until free(). */
export class Arena implements Allocator {
  readonly bytes: number;
  readonly #device: Device;
  readonly #base: number;
  #used = 0;

  constructor(device: Device, bytes: number) {
    this.bytes = bytes;
    this.#device = device;
    this.#base = device.malloc(Math.max(bytes, slotBytes));
  }

  allocate(_use: MemoryUse, dtype: DType, shape: readonly number[]): Tensor {
    const bytes = slotSize(dtype, shape);
    if (this.#used + bytes > this.bytes) {
      throw new NeftuneError(
        "plan",
        `the memory plan of ${this.bytes} bytes has no room for ${dtype}[${shape}]`,
      );
    }
    const tensor = new Tensor(this.#base + this.#used, dtype, shape);
    this.#used += bytes;
    return tensor;
  }

  /** Hands its memory out anew: for work that is done again and again with tensors of its own. */
  reuse(): void {
    this.#used = 0;
  }

  free(): void {
    this.#device.free(this.#base);
  }
}
