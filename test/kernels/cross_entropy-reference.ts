// The head's loss and its gradients in float64.

import { dense, product, transpose } from "./products.ts";

export interface Case {
  T: number;
  H: number;
  V: number;
  rows: number[];
}

/** losses, and dlogits of the gradient-scaled sum, in float64. */
export function reference(
  x: Float32Array,
  w: Float32Array,
  { T, H, V, rows }: Case,
  targets: ArrayLike<number>,
  scale: number,
) {
  const all = dense(x, T, H);
  const picked = { rows: rows.length, columns: H, at: (i: number, j: number) => all.at(rows[i]!, j) };
  const logits = product(picked, transpose(dense(w, V, H)));
  const losses: number[] = [];
  const dlogits = new Float64Array(logits.length);
  rows.forEach((_, i) => {
    const row = logits.subarray(i * V, (i + 1) * V);
    const top = row.reduce((a, b) => Math.max(a, b), -Infinity);
    const others = row.reduce((sum, l, j) => (j === targets[i] ? sum : sum + Math.exp(l - top)), 0);
    const own = Math.exp(row[targets[i]!]! - top);
    losses.push(own === 1 ? Math.log1p(others) : Math.log(others + own) - (row[targets[i]!]! - top));
    for (let j = 0; j < V; j++) {
      const p = Math.exp(row[j]! - top) / (others + own);
      dlogits[i * V + j] = scale * (j === targets[i] ? -others / (others + own) : p);
    }
  });
  const dpicked = product(dense(dlogits, rows.length, V), dense(w, V, H));
  const dx = new Float64Array(T * H);
  rows.forEach((row, i) => {
    dx.set(dpicked.subarray(i * H, (i + 1) * H), row * H);
  });
  const dweight = product(transpose(dense(dlogits, rows.length, V)), picked);
  return { losses, dx, dweight };
}
