// The element types of safetensors, in the order of the reference implementation (0.8): files are written
// with the last of these first, so that every tensor is aligned to its element.

const BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

export type SafetensorsDType = keyof typeof BITS;

export const SAFETENSORS_DTYPES = Object.keys(BITS) as readonly SafetensorsDType[];

const RANK = new Map<string, number>(SAFETENSORS_DTYPES.map((dtype, rank) => [dtype, rank]));

export function isSafetensorsDType(name: string): name is SafetensorsDType {
  return RANK.has(name);
}

/** The place of `dtype` in the reference implementation's order. */
export function dtypeRank(dtype: SafetensorsDType): number {
  return RANK.get(dtype)!;
}

/**
 * Bytes of a tensor. A scalar (`shape` []) has one element. Returns a reason instead of a number where the
 * size is past 2^53 or does not end on a whole byte (F4 and F6 pack several elements in a byte).
 */
export function tensorBytes(dtype: SafetensorsDType, shape: readonly number[]): number | string {
  const bits = BITS[dtype];
  let elements = 1;
  for (const size of shape) {
    elements *= size;
    if (!Number.isSafeInteger(elements)) return `shape ${showShape(shape)} has more than 2^53 elements`;
  }
  if (bits >= 8) {
    const bytes = elements * (bits / 8);
    return Number.isSafeInteger(bytes)
      ? bytes
      : `shape ${showShape(shape)} of ${dtype} has more than 2^53 bytes`;
  }
  const total = elements * bits;
  if (!Number.isSafeInteger(total)) return `shape ${showShape(shape)} of ${dtype} has more than 2^53 bits`;
  return total % 8 === 0
    ? total / 8
    : `shape ${showShape(shape)} of ${dtype} (${bits} bits) does not end on a whole byte`;
}

/** `[2,3]`, cut short after 8 sizes: a hostile header may have millions. */
export function showShape(shape: readonly number[]): string {
  return shape.length > 8 ? `[${shape.slice(0, 8)},… ${shape.length} sizes]` : `[${shape}]`;
}
