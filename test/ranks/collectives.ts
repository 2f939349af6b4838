// What ranks contribute to the collectives that are tested, and what has to come of it.

import { encodeFloats } from "../../src/floats.ts";

/** Odd, and more than any rank shows the others at a time. */
export const ELEMENTS = 70_001;

export const shareOf = (elements: number, ranks: number) => Math.ceil(elements / ranks);

export const hashOf = (bytes: Uint8Array) =>
  new Bun.CryptoHasher("sha256").update(bytes).digest("hex").slice(0, 16);

/** A rank's values: of very different magnitudes, so that the order of a sum shows. */
export function contribution(rank: number, n: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: n }, (_, i) => Math.sin(i * 0.37 + rank * 1.7) * 10 ** ((i + rank) % 7));
}

/** The ranks' values, each rounded to `dtype`, added in float32 in the order of the ranks, then rounded. */
export function sumOf(ranks: number, n: number, dtype: "f32" | "bf16"): Uint8Array {
  const all = Array.from({ length: ranks }, (_, rank) => rounded(contribution(rank, n), dtype));
  const sum = all[0]!.slice();
  for (const values of all.slice(1)) for (let i = 0; i < n; i++) sum[i] = sum[i]! + values[i]!;
  return encodeFloats(sum, dtype);
}

function rounded(values: Float32Array<ArrayBuffer>, dtype: "f32" | "bf16"): Float32Array<ArrayBuffer> {
  if (dtype === "f32") return values;
  const bytes = encodeFloats(values, "bf16");
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, values.length);
  return new Float32Array(Uint32Array.from(halves, (half) => (half << 16) >>> 0).buffer);
}
