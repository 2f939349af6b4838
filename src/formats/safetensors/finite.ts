// Counting NaN and infinities among a tensor's bytes, for tensors that never come onto a device.
import type { SafetensorsDType } from "./dtype.ts";

/** The bits of an exponent of ones, which NaN and infinities alone have. */
const exponents: Partial<Record<SafetensorsDType, number>> = {
  F32: 0x7f800000,
  BF16: 0x7f80,
  F16: 0x7c00,
};

/** How many of the little-endian elements in `bytes` are NaN or infinite; 0 for a dtype that is not F32, F16 or BF16. */
export function countNonFiniteBytes(dtype: SafetensorsDType, bytes: Uint8Array): number {
  const exponent = exponents[dtype];
  if (exponent === undefined) return 0;
  const elementBytes = dtype === "F32" ? 4 : 2;
  const { buffer, byteOffset, length } = bytes.byteOffset % elementBytes === 0 ? bytes : bytes.slice();
  const Elements = elementBytes === 4 ? Uint32Array : Uint16Array;
  const elements = new Elements(buffer as ArrayBuffer, byteOffset, Math.floor(length / elementBytes));
  let count = 0;
  for (let i = 0; i < elements.length; i++) if ((elements[i]! & exponent) === exponent) count++;
  return count;
}
