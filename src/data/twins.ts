// Which samples are the same, told by 64-bit hashes: of a billion samples, two that differ are taken for equal with a
// chance of 3 in 100.

/** For each hash the place of the first one that is equal. */
export function firstEqual(hashes: BigUint64Array): Int32Array {
  const words = new Uint32Array(hashes.buffer, hashes.byteOffset, 2 * hashes.length);
  const slots = new Int32Array(2 ** Math.ceil(Math.log2(2 * hashes.length + 1))).fill(-1);
  const mask = slots.length - 1;
  const first = new Int32Array(hashes.length);
  for (let i = 0; i < first.length; i++) {
    let slot = words[2 * i]! & mask;
    let other = slots[slot]!;
    while (other >= 0 && (words[2 * other] !== words[2 * i] || words[2 * other + 1] !== words[2 * i + 1])) {
      slot = (slot + 1) & mask;
      other = slots[slot]!;
    }
    if (other < 0) slots[slot] = i;
    first[i] = other < 0 ? i : other;
  }
  return first;
}
