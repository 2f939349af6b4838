// Values that are on their way from the device to the host while both work on. On a GPU they go to pinned memory, in the
// order of the work enqueued; one wait then serves all of them. Owns that memory until close(): values that nobody takes
// keep theirs, and that of all read after them.

import { type Pointer, toArrayBuffer } from "bun:ffi";
import type { Device } from "./device.ts";
import type { Tensor } from "./tensor.ts";

const LEAST_BYTES = 1 << 16;
const ALIGNMENT = 8;

export class Readback {
  readonly #device: Device;
  /** Pinned memory: the newest block is the one that is handed out, older ones hold values not taken yet. */
  readonly #blocks: { address: number; bytes: number }[] = [];
  #used = 0;
  /** Reads whose values nobody has taken. */
  #open = 0;
  /** How many times the host has waited for all work. */
  #waits = 0;

  constructor(device: Device) {
    this.#device = device;
  }

  read(tensor: Tensor): () => Float32Array<ArrayBuffer> {
    if (this.#device.isHost) {
      const values = this.#device.readFloats(tensor);
      return () => values;
    }
    const { bytes } = tensor;
    const address = this.#reserve(bytes);
    if (bytes > 0) this.#device.call("nt_copy_to_host_later", address, tensor.ptr, bytes);
    const before = this.#waits;
    this.#open++;
    return () => {
      if (this.#waits === before) {
        this.#device.synchronize();
        this.#waits++;
      }
      const values = new Float32Array(
        bytes === 0 ? new ArrayBuffer(0) : toArrayBuffer(address as Pointer, 0, bytes).slice(0),
      );
      if (--this.#open === 0) this.#used = 0;
      return values;
    };
  }

  /** Room for so many bytes of pinned memory that nothing else uses. */
  #reserve(bytes: number): number {
    const size = Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
    let block = this.#blocks.at(-1);
    if (block === undefined || this.#used + size > block.bytes) {
      if (this.#open === 0) this.close();
      block = this.#allocate(Math.max(LEAST_BYTES, size, 2 * (block?.bytes ?? 0)));
    }
    const address = block.address + this.#used;
    this.#used += size;
    return address;
  }

  #allocate(bytes: number): { address: number; bytes: number } {
    const out = new BigUint64Array(1);
    this.#device.call("nt_host_malloc", bytes, out);
    const block = { address: Number(out[0]), bytes };
    this.#blocks.push(block);
    this.#used = 0;
    return block;
  }

  /** Gives the pinned memory back; values not taken yet are lost. */
  close(): void {
    for (const { address } of this.#blocks.splice(0)) {
      try {
        this.#device.call("nt_host_free", address);
      } catch {
        // An error of work enqueued before, which whoever waits for that work is told.
      }
    }
  }
}
