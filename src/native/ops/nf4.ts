// Tensors in 4-bit NormalFloat (QLoRA, arXiv 2305.14314): their memory, quantizing, dequantizing. The format is
// bitsandbytes' (kernels/nf4.h).

import { NeftuneError } from "../../errors.ts";
import type { FloatDType } from "../../floats.ts";
import type { Allocator, MemoryUse } from "../arena.ts";
import type { Device } from "../device.ts";
import { dtypeCode, sizeOf, type Tensor } from "../tensor.ts";
import { expectContiguous } from "./check.ts";

/** Values that share one absmax. */
const nf4Block = 64;
/** Absmax values that share one second absmax. */
const nf4NestedBlock = 256;

/** An NF4 tensor on the device. `absmax`: f32, or with double quantization bytes, four to an i32 element. */
export interface Nf4 {
  shape: readonly number[];
  /** What was quantized: dequantized values are rounded to it first. */
  dtype: FloatDType;
  codes: Tensor; // i32 [⌈bytes / 4⌉], two codes a byte
  absmax: Tensor; // f32 [blocks] or i32 [⌈blocks / 4⌉]
  /** f32 [⌈blocks / 256⌉ + 1], the last is the offset; null: no double quantization. */
  absmax2: Tensor | null;
}

/** Sizes of an NF4 tensor's parts: bytes of codes, absmax values, second absmax values (without the offset). */
export function nf4Sizes(n: number): { codes: number; blocks: number; nested: number } {
  const blocks = Math.ceil(n / nf4Block);
  return { codes: Math.ceil(n / 2), blocks, nested: Math.ceil(blocks / nf4NestedBlock) };
}

const bytesAsWords = (bytes: number): [number] => [Math.ceil(bytes / 4)];

/** Memory for an NF4 tensor, contents undefined. */
export function allocateNf4(
  allocator: Allocator,
  use: MemoryUse,
  shape: readonly number[],
  dtype: FloatDType,
  double: boolean,
): Nf4 {
  const n = sizeOf(shape);
  const { codes, blocks, nested } = nf4Sizes(n);
  return {
    shape,
    dtype,
    codes: allocator.allocate(use, "i32", bytesAsWords(codes)),
    absmax: double
      ? allocator.allocate(use, "i32", bytesAsWords(blocks))
      : allocator.allocate(use, "f32", [blocks]),
    absmax2: double ? allocator.allocate(use, "f32", [nested + 1]) : null,
  };
}

/** Four words, as nt_nf4 has them. */
export function nf4Words({ codes, absmax, absmax2, dtype }: Nf4): BigInt64Array {
  return BigInt64Array.of(
    BigInt(codes.ptr),
    BigInt(absmax.ptr),
    BigInt(absmax2?.ptr ?? 0),
    BigInt(dtypeCode[dtype]),
  );
}

/**
 * Quantizes `source` (a device tensor of the NF4 tensor's dtype). With double quantization `absmax` (f32 [blocks] or
 * larger) is scratch for the first-level values. `nonFinite` (i32 [1]; null: not wanted) grows by the number of values
 * that are NaN or infinite.
 */
export function nf4Quantize(
  device: Device,
  to: Nf4,
  source: Tensor,
  absmax: Tensor | null,
  nonFinite: Tensor | null,
): void {
  const n = sizeOf(to.shape);
  expectContiguous("nf4_quantize", "source", source);
  const first = to.absmax2 === null ? to.absmax : absmax;
  const { blocks } = nf4Sizes(n);
  if (source.size !== n || source.dtype !== to.dtype || first === null || first.size < blocks) {
    throw new NeftuneError(
      "shape",
      `nf4_quantize: ${source} into ${to.dtype}[${to.shape}] with ${first?.size ?? 0} of ${blocks} absmax values`,
    );
  }
  const count = nonFinite?.ptr ?? null;
  device.call("nt_nf4_quantize", to.codes.ptr, first.ptr, source.ptr, dtypeCode[to.dtype], n, count);
  if (to.absmax2 !== null)
    device.call("nt_nf4_quantize_absmax", to.absmax.ptr, to.absmax2.ptr, first.ptr, blocks);
}

/** Writes the tensor's values into `destination` (f32, bf16 or f16, as many elements; it may lie in wider rows). */
export function nf4Dequantize(device: Device, destination: Tensor, from: Nf4): void {
  const n = sizeOf(from.shape);
  if (destination.size !== n || destination.dtype === "i32")
    throw new NeftuneError("shape", `nf4_dequantize: ${from.dtype}[${from.shape}] into ${destination}`);
  const { ptr, dtype, columnCount, rowStride } = destination;
  device.call("nt_nf4_dequantize", ptr, dtypeCode[dtype], nf4Words(from), n, columnCount, rowStride);
}
