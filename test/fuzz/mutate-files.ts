// Damage to binary files that knows their structure: safetensors, Parquet, files packed with gzip or zstd.

import { mutateBytes, splice } from "./mutate-bytes.ts";
import { mutateJson } from "./mutate-json.ts";
import type { Random } from "./random.ts";

export type Mutation = (bytes: Uint8Array, random: Random) => Uint8Array;

const HEADER_START = 8;

/** The header as JSON, its length, or the values. */
export const mutateSafetensors: Mutation = (bytes, random) => {
  const whole = Buffer.from(bytes);
  const length = whole.length < HEADER_START ? 0 : Number(whole.readBigUInt64LE(0));
  const end = Math.min(HEADER_START + length, whole.length);
  switch (random.below(5)) {
    case 0:
      return mutateBytes(bytes, random);
    case 1:
      return mutateBytes(bytes, random, 0, HEADER_START);
    case 2: {
      // Not a number, an infinity, or the largest: of float32 and of bfloat16.
      const value = random.pick([
        [0, 0, 0xc0, 0x7f],
        [0, 0, 0x80, 0x7f],
        [0, 0, 0x80, 0xff],
        [0xff, 0xff, 0x7f, 0x7f],
      ]);
      const at = end + 4 * random.below(Math.max(1, (whole.length - end) / 4));
      return at + 4 > whole.length ? bytes : splice(bytes, at, 4, Uint8Array.from(value));
    }
    default: {
      const header = Buffer.from(mutateJson(whole.toString("utf8", HEADER_START, end), random));
      const repaired = Buffer.alloc(HEADER_START);
      repaired.writeBigUInt64LE(BigInt(header.length));
      return Buffer.concat([repaired, header, whole.subarray(end)]);
    }
  }
};

/** Most of a small Parquet file is its footer, and there is where reading begins. */
export const mutateParquet: Mutation = (bytes, random) => {
  const whole = Buffer.from(bytes);
  const footer = whole.length < 12 ? 0 : whole.readUInt32LE(whole.length - 8);
  const start = Math.max(0, whole.length - 8 - footer);
  return random.once(2) ? mutateBytes(bytes, random, start) : mutateBytes(bytes, random, 0, start);
};

interface Packing {
  pack(bytes: Uint8Array): Uint8Array;
  unpack(bytes: Uint8Array): Uint8Array;
}

export const gzip: Packing = {
  pack: (bytes) => Bun.gzipSync(bytes.slice()),
  unpack: (bytes) => Bun.gunzipSync(bytes.slice()),
};
export const zstd: Packing = {
  pack: (bytes) => Bun.zstdCompressSync(bytes),
  unpack: (bytes) => Bun.zstdDecompressSync(bytes),
};

/** What is packed is damaged as `inner` does it, or the packing; or there is a great deal of it. */
export function mutatePacked({ pack, unpack }: Packing, inner: Mutation): Mutation {
  return (bytes, random) => {
    if (random.once(2)) return mutateBytes(bytes, random);
    let unpacked: Uint8Array;
    try {
      unpacked = unpack(bytes);
    } catch {
      return mutateBytes(bytes, random);
    }
    switch (random.below(8)) {
      case 0:
        return Buffer.concat([bytes, random.once(2) ? bytes : bytes.slice(0, random.below(bytes.length))]);
      case 1: {
        const byte = random.pick([" ", "\n", "[", "a", "\0", '"']);
        return pack(Buffer.concat([unpacked, Buffer.alloc(random.pick([100_000, 30_000_000]), byte)]));
      }
      default:
        return pack(inner(unpacked, random));
    }
  };
}
