// Damage to bytes of any kind: flips, cuts, splices, repeats, extreme numbers.

import type { Random } from "./random.ts";

const EXTREMES = [
  0n,
  1n,
  0x7fn,
  0xffn,
  0x7fffn,
  0xffffn,
  0x7fff_ffffn,
  0xffff_ffffn,
  2n ** 63n - 1n,
  2n ** 64n - 1n,
];

/** `removed` bytes at `at` replaced by `added`. */
export function splice(bytes: Uint8Array, at: number, removed: number, added: Uint8Array): Uint8Array {
  return Buffer.concat([bytes.subarray(0, at), added, bytes.subarray(at + removed)]);
}

/** One change. `from` and `to` bound where it begins. */
export function mutateBytes(bytes: Uint8Array, random: Random, from = 0, to = bytes.length): Uint8Array {
  const at = from + random.below(Math.max(1, to - from));
  const length = random.once(4) ? random.below(bytes.length) : 1 + random.below(16);
  switch (random.below(8)) {
    case 0:
      return overwrite(bytes, at, Uint8Array.of((bytes[at] ?? 0) ^ (1 << random.below(8))));
    case 1:
      return overwrite(bytes, at, Uint8Array.of(random.below(256)));
    case 2:
      return bytes.slice(0, at);
    case 3:
      return splice(bytes, at, length, new Uint8Array(0));
    case 4: {
      const source = random.below(bytes.length);
      return splice(bytes, at, random.once(2) ? length : 0, bytes.slice(source, source + length));
    }
    case 5: {
      const piece = Buffer.from(bytes.subarray(at, at + length));
      const times = random.once(8) ? 1000 : 2 + random.below(8);
      return splice(bytes, at, 0, Buffer.concat(Array.from({ length: times }, () => piece)));
    }
    case 6: {
      const number = Buffer.alloc(8);
      number.writeBigUInt64LE(random.pick(EXTREMES));
      return overwrite(bytes, at, number.subarray(0, random.pick([1, 2, 4, 8])));
    }
    default:
      return overwrite(bytes, at, new Uint8Array(length).fill(random.pick([0, 0xff, 0x20, 0x80])));
  }
}

/** `written` over what is at `at`; the length stays. */
function overwrite(bytes: Uint8Array, at: number, written: Uint8Array): Uint8Array {
  const changed = bytes.slice();
  changed.set(written.subarray(0, Math.max(0, bytes.length - at)), Math.min(at, bytes.length));
  return changed;
}
