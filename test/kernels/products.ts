// Plain float64 products, the references of the linear, LoRA and cross-entropy tests.

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
