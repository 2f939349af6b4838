// Values from one tensor to another, and from host memory to the device.

import { NeftuneError } from "../../errors.ts";
import type { FloatDType } from "../../floats.ts";
import type { Device } from "../device.ts";
import { dtypeBytes, dtypeCode, type Tensor } from "../tensor.ts";
import { activationCode, expectContiguous, expectMatrix, expectVector, storedCode } from "./check.ts";

/** destination = source, converted, rounded to nearest even. Floats of any type into f32 or bf16. */
export function cast(device: Device, destination: Tensor, source: Tensor): void {
  expectVector("cast", "destination", destination, destination.dtype, source.size);
  const code = storedCode("cast", source);
  device.call("nt_cast", destination.ptr, activationCode("cast", destination), source.ptr, code, source.size);
}

/**
 * destination = as many values of `dtype` in host memory (bytes, or an address in a mapped file, at any alignment),
 * converted, rounded to nearest even.
 */
export function upload(
  device: Device,
  destination: Tensor,
  source: Uint8Array | number,
  dtype: FloatDType,
): void {
  expectContiguous("upload", "destination", destination);
  if (typeof source !== "number" && source.byteLength < destination.size * dtypeBytes[dtype])
    throw new NeftuneError(
      "shape",
      `upload: ${source.byteLength} bytes of ${dtype} cannot fill ${destination}`,
    );
  if (destination.dtype === dtype) {
    device.call("nt_copy_to_device", destination.ptr, source, destination.bytes);
    return;
  }
  const code = activationCode("upload", destination);
  device.call("nt_upload", destination.ptr, code, source, dtypeCode[dtype], destination.size);
}

/** Copies `bytes` at an address of host memory into a tensor that has room for them. */
export function copyToDevice(device: Device, destination: Tensor, source: number, bytes: number): void {
  if (!destination.contiguous || bytes > destination.bytes)
    throw new NeftuneError("shape", `copy: ${bytes} bytes do not fit into ${destination}`);
  device.call("nt_copy_to_device", destination.ptr, source, bytes);
}

/** Matrices to copy at once: a destination may lie in wider rows, its source may not. */
export interface CopiedBlock {
  destination: Tensor;
  source: Tensor;
}

/** Five words a block, as nt_copied_block has them. */
export function blockWords(blocks: readonly CopiedBlock[]): BigInt64Array<ArrayBuffer> {
  const words = new BigInt64Array(5 * blocks.length);
  for (const [i, { destination, source }] of blocks.entries()) {
    const { rowCount, columnCount } = source;
    expectMatrix("copy_blocks", "destination", destination, source.dtype, rowCount, columnCount);
    expectContiguous("copy_blocks", "source", source);
    const size = dtypeBytes[source.dtype];
    const bytes = [columnCount * size, destination.rowStride * size];
    words.set([destination.ptr, source.ptr, rowCount, ...bytes].map(BigInt), 5 * i);
  }
  return words;
}

/** Every destination = its source, all on the device. `words`: what blockWords makes of them. */
export function copyBlocks(device: Device, words: BigInt64Array<ArrayBuffer>): void {
  device.call("nt_copy_blocks", words, words.length / 5);
}

/** destination = source, of the same type and size, both on the device. */
export function copyTensor(device: Device, destination: Tensor, source: Tensor): void {
  expectVector("copy", "destination", destination, source.dtype, source.size);
  expectContiguous("copy", "source", source);
  device.call("nt_copy", destination.ptr, source.ptr, source.bytes);
}
