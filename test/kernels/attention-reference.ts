// Causal attention in float64, one score at a time, to hold the kernels against.

import type { AttentionShape } from "../../src/native/index.ts";

/** Rows are laid out as the kernels' are, without gaps: qkv[T, (heads + 2·kvHeads)·headDim], o[T, heads·headDim]. */
export interface AttentionInput {
  shape: AttentionShape;
  lengths: readonly number[];
  qkv: ArrayLike<number>;
}

export interface AttentionOutput {
  o: Float64Array;
  lse: Float64Array; // [heads, T]
}

export const attentionScale = (shape: AttentionShape) => Math.fround(1 / Math.sqrt(shape.headDim));

export const tokensOf = (lengths: readonly number[]) => lengths.reduce((sum, length) => sum + length, 0);

/** Sample borders: 0 first, the number of tokens last. */
export function bordersOf(lengths: readonly number[]): Int32Array {
  const borders = new Int32Array(lengths.length + 1);
  for (const [i, length] of lengths.entries()) borders[i + 1] = borders[i]! + length;
  return borders;
}

/** Calls visit(head, row, first row, probabilities of the sample's rows from there to this one, lse) for every head and token. */
function eachRow(
  { shape, lengths, qkv }: AttentionInput,
  visit: (h: number, t: number, begin: number, p: Float64Array, lse: number) => void,
): void {
  const { heads, kvHeads, headDim } = shape;
  const columns = (heads + 2 * kvHeads) * headDim;
  const borders = bordersOf(lengths);
  for (let s = 0; s < lengths.length; s++) {
    for (let t = borders[s]!; t < borders[s + 1]!; t++) {
      const begin = Math.max(borders[s]!, shape.window ? t - shape.window + 1 : 0);
      for (let h = 0; h < heads; h++) {
        const query = t * columns + h * headDim;
        const key = (heads + Math.floor(h / (heads / kvHeads))) * headDim;
        const p = new Float64Array(t - begin + 1);
        let top = -Infinity;
        for (let j = 0; j < p.length; j++) {
          let score = 0;
          for (let i = 0; i < headDim; i++) score += qkv[query + i]! * qkv[(begin + j) * columns + key + i]!;
          p[j] = score * attentionScale(shape);
          top = Math.max(top, p[j]!);
        }
        let total = 0;
        for (let j = 0; j < p.length; j++) {
          p[j] = Math.exp(p[j]! - top);
          total += p[j]!;
        }
        for (let j = 0; j < p.length; j++) p[j]! /= total;
        visit(h, t, begin, p, top + Math.log(total));
      }
    }
  }
}

export function referenceForward(input: AttentionInput): AttentionOutput {
  const { heads, kvHeads, headDim } = input.shape;
  const T = tokensOf(input.lengths);
  const columns = (heads + 2 * kvHeads) * headDim;
  const o = new Float64Array(T * heads * headDim);
  const lse = new Float64Array(heads * T);
  eachRow(input, (h, t, begin, p, logSum) => {
    lse[h * T + t] = logSum;
    const value = (heads + kvHeads + Math.floor(h / (heads / kvHeads))) * headDim;
    const to = (t * heads + h) * headDim;
    for (let j = 0; j < p.length; j++) {
      for (let i = 0; i < headDim; i++) o[to + i]! += p[j]! * input.qkv[(begin + j) * columns + value + i]!;
    }
  });
  return { o, lse };
}

/** dqkv for the gradient dout[T, heads·headDim] of o. */
export function referenceBackward(input: AttentionInput, dout: ArrayLike<number>): Float64Array {
  const { heads, kvHeads, headDim } = input.shape;
  const { qkv } = input;
  const columns = (heads + 2 * kvHeads) * headDim;
  const dqkv = new Float64Array(tokensOf(input.lengths) * columns);
  const scale = attentionScale(input.shape);
  eachRow(input, (h, t, begin, p) => {
    const kvHead = Math.floor(h / (heads / kvHeads));
    const query = t * columns + h * headDim;
    const key = (heads + kvHead) * headDim;
    const value = (heads + kvHeads + kvHead) * headDim;
    const from = (t * heads + h) * headDim;
    const dp = new Float64Array(p.length);
    let delta = 0;
    for (let j = 0; j < p.length; j++) {
      const row = (begin + j) * columns;
      for (let i = 0; i < headDim; i++) {
        dp[j]! += dout[from + i]! * qkv[row + value + i]!;
        dqkv[row + value + i]! += p[j]! * dout[from + i]!;
      }
      delta += p[j]! * dp[j]!;
    }
    for (let j = 0; j < p.length; j++) {
      const row = (begin + j) * columns;
      const ds = p[j]! * (dp[j]! - delta) * scale;
      for (let i = 0; i < headDim; i++) {
        dqkv[query + i]! += ds * qkv[row + key + i]!;
        dqkv[row + key + i]! += ds * qkv[query + i]!;
      }
    }
  });
  return dqkv;
}
