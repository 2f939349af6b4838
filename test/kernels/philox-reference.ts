// The random numbers of spec/noise.md, one at a time in float64: what the vectorized kernels are checked against.

import { philox, seedKey } from "../../src/data/philox.ts";

export type NoiseKind = "uniform" | "bernoulli" | "gaussian";

export const noiseCodes = { none: 0, uniform: 1, bernoulli: 2, gaussian: 3 } as const;

/** The four words of a block. */
export function block(
  seed: number,
  counter: readonly [number, number, number, number],
): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(4);
  philox(...seedKey(seed), ...counter, words);
  return words;
}

/** The value that `words` give to dimension `lane` (0 … 3) of their block. */
export function noiseValue(kind: NoiseKind, words: Uint32Array, lane: number): number {
  if (kind === "uniform") return ((words[lane]! >> 8) + 0.5) * 2 ** -23;
  if (kind === "bernoulli") return words[lane]! >>> 31 === 0 ? 1 : -1;
  const first = lane & 2;
  const radius = Math.sqrt(-2 * Math.log(((words[first]! >>> 8) + 1) * 2 ** -24));
  const turn = 2 * Math.PI * (words[first + 1]! >>> 8) * 2 ** -24;
  return radius * ((lane & 1) === 0 ? Math.cos(turn) : Math.sin(turn));
}

/** Low 32 and high 16 bits of a draw. */
export function drawWords(draw: bigint): [number, number] {
  return [Number(draw & 0xffffffffn), Number(draw >> 32n)];
}

/** NEFTune's n[width] for the token at `position` of the sample with this draw. */
export function noiseRow(
  kind: NoiseKind,
  seed: number,
  draw: bigint,
  position: number,
  width: number,
): number[] {
  const [low, high] = drawWords(draw);
  return Array.from({ length: width }, (_, j) =>
    noiseValue(kind, block(seed, [j >> 2, position, low, high]), j & 3),
  );
}
