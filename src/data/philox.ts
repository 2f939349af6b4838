// Philox4x32-10, the counter-based generator of every random number of a run, and the shuffles made of it.
// J. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11. kernels/ has the same in C++.

import { NeftuneError } from "../errors.ts";
import { PhiloxStream } from "../philox-streams.ts";

/** Counter word 1 of the split that holds samples out. Shuffles have the epoch there, which never gets so far. */
const HOLDOUT_EPOCH = 0xffffffff;

/** High 32 bits of the 64-bit product of two unsigned 32-bit integers, from 16-bit halves: all exact in float64. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const low = aLow * bLow;
  const middle = aHigh * bLow + (low >>> 16);
  const carry = aLow * bHigh + (middle % 0x10000);
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000)) >>> 0;
}

/** Ten rounds of Philox4x32 with key (key0, key1) on counter (c0, c1, c2, c3): four uint32 words into `out`. */
export function philox(
  key0: number,
  key1: number,
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  out: Uint32Array,
): void {
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0 >>> 0);
    const low0 = Math.imul(0xd2511f53, c0);
    const high1 = multiplyHigh(0xcd9e8d57, c2 >>> 0);
    const low1 = Math.imul(0xcd9e8d57, c2);
    c0 = high1 ^ c1 ^ key0;
    c1 = low1;
    c2 = high0 ^ c3 ^ key1;
    c3 = low0;
    key0 = (key0 + 0x9e3779b9) | 0;
    key1 = (key1 + 0xbb67ae85) | 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** The key of a run: low and high 32 bits of its seed. Throws where the seed is not an integer from 0 to 2^64 − 1. */
export function seedKey(seed: number | bigint): [number, number] {
  const whole = typeof seed === "bigint" ? seed : Number.isSafeInteger(seed) ? BigInt(seed) : -1n;
  if (whole < 0n || whole > 0xffffffffffffffffn) {
    throw new NeftuneError("seed", `seed: expected an integer from 0 to 2^64 - 1, got ${seed}`);
  }
  return [Number(whole & 0xffffffffn), Number(whole >> 32n)];
}

/**
 * A permutation of 0 … n−1 for an epoch: Fisher–Yates from the last place down, each place drawing one of those
 * left. The words come from stream 2 in order (counter (block, epoch, 0, 2 << 16)); a word at or above the largest
 * multiple of the range is passed over, so every permutation is as likely as another. The same on any machine.
 */
export function shuffle(n: number, seed: number | bigint, epoch: number): Int32Array {
  const [key0, key1] = seedKey(seed);
  const order = Int32Array.from({ length: n }, (_, i) => i);
  const words = new Uint32Array(4);
  let drawn = 0;
  for (let last = n - 1; last > 0; last--) {
    const range = last + 1;
    const limit = 0x100000000 - (0x100000000 % range);
    let word: number;
    do {
      if ((drawn & 3) === 0) philox(key0, key1, drawn / 4, epoch, 0, PhiloxStream.shuffle << 16, words);
      word = words[drawn & 3]!;
      drawn++;
    } while (word >= limit);
    const pick = word % range;
    const kept = order[last]!;
    order[last] = order[pick]!;
    order[pick] = kept;
  }
  return order;
}

/** The permutation whose first places are held out for evaluation: independent of every epoch's shuffle. */
export function holdoutOrder(n: number, seed: number | bigint): Int32Array {
  return shuffle(n, seed, HOLDOUT_EPOCH);
}

/** The permutation whose first places are the part of a data set that a weight takes, by its place in a mixture. */
export function mixOrder(n: number, seed: number | bigint, place: number): Int32Array {
  return shuffle(n, seed, HOLDOUT_EPOCH - 1 - place);
}
