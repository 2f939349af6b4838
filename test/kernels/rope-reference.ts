// RoPE in float64, and its tables.

/** cos and sin of position · θ^(−2i/d), [positions, d/2]. */
export function angles(positions: number, headDim: number) {
  const half = headDim / 2;
  const angle = Float64Array.from(
    { length: positions * half },
    (_, i) => Math.floor(i / half) * 10000 ** (-(i % half) / half),
  );
  return { cosine: Float32Array.from(angle, Math.cos), sine: Float32Array.from(angle, Math.sin) };
}

/** x[T, ldx] with its first `heads` heads turned (sign −1: back). */
export function turn(
  x: ArrayLike<number>,
  ldx: number,
  tables: ReturnType<typeof angles>,
  positions: readonly number[],
  heads: number,
  headDim: number,
  sign: 1 | -1,
): Float64Array {
  const half = headDim / 2;
  const out = Float64Array.from(x);
  for (const [t, position] of positions.entries()) {
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < half; i++) {
        const at = t * ldx + h * headDim + i;
        const [a, b] = [x[at]!, x[at + half]!];
        const [c, s] = [tables.cosine[position * half + i]!, sign * tables.sine[position * half + i]!];
        out[at] = a * c - b * s;
        out[at + half] = b * c + a * s;
      }
    }
  }
  return out;
}
