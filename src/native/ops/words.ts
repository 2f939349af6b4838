// Integers as native code reads them.

/** 64-bit integers from whole numbers of at least 0, without BigInt: a step makes thousands of them. */
export function int64Words(values: readonly number[]): BigInt64Array<ArrayBuffer> {
  const words = new Uint32Array(2 * values.length);
  for (let i = 0; i < values.length; i++) {
    words[2 * i] = values[i]!; // the array keeps the lower 32 bits
    words[2 * i + 1] = values[i]! / 2 ** 32;
  }
  return new BigInt64Array(words.buffer);
}
