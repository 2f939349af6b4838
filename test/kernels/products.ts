// Plain float64 products, the references of the linear, LoRA and cross-entropy tests; a product's rows by themselves.

import { expect } from "bun:test";

/** A matrix held row by row. */
export interface Dense {
  rows: number;
  columns: number;
  at(i: number, j: number): number;
}

export function dense(values: ArrayLike<number>, rows: number, columns: number, ld = columns): Dense {
  return { rows, columns, at: (i, j) => values[i * ld + j]! };
}

export function transpose(m: Dense): Dense {
  return { rows: m.columns, columns: m.rows, at: (i, j) => m.at(j, i) };
}

/** start + scale · a · b, row by row. */
export function product(a: Dense, b: Dense, start?: ArrayLike<number>, scale = 1): Float64Array {
  const result = new Float64Array(a.rows * b.columns);
  for (let i = 0; i < a.rows; i++) {
    for (let j = 0; j < b.columns; j++) {
      let sum = 0;
      for (let k = 0; k < a.columns; k++) sum += a.at(i, k) * b.at(k, j);
      result[i * b.columns + j] = (start?.[i * b.columns + j] ?? 0) + scale * sum;
    }
  }
  return result;
}

export function plus(a: ArrayLike<number>, b: ArrayLike<number>): Float64Array {
  return Float64Array.from(a, (x, i) => x + b[i]!);
}

/**
 * Expects rows begin … begin + n − 1 of a product, computed by themselves, to have the bits that they have in `all`
 * [T, out]. `parts` are pairs of begin and n.
 */
export function expectRowsAlone(
  all: Float32Array,
  out: number,
  parts: readonly (readonly [begin: number, n: number])[],
  rowsOf: (begin: number, n: number) => Float32Array,
  name: string,
): void {
  for (const [begin, n] of parts)
    expect(rowsOf(begin, n), `${name}, ${n} rows from ${begin} on`).toEqual(
      all.slice(begin * out, (begin + n) * out),
    );
}
