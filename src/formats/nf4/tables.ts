// The two tables of NF4: what the codes stand for.

/** The 16 values of NormalFloat (QLoRA, arXiv 2305.14314, appendix E), as float32. */
export const nf4Codebook: Float32Array<ArrayBuffer> = Float32Array.of(
  ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453],
  ...[-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0],
  ...[0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
  ...[0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
);

/**
 * The 256 values that double quantization's codes stand for (8-bit optimizers, arXiv 2110.02861: the dynamic tree type):
 * for each power of ten from 10⁻⁶ to 1 the middles between 2ⁱ + 1 points from 0.1 to 1, with both signs; 0; 1.
 */
export const nf4DynamicMap: Float32Array<ArrayBuffer> = dynamicMap();

function dynamicMap(): Float32Array<ArrayBuffer> {
  const { fround } = Math;
  const values = [0, 1];
  for (let i = 0; i < 7; i++) {
    const intervals = 2 ** i;
    // torch.linspace: from the nearer end, product and sum rounded once.
    const step = fround(fround(1 - fround(0.1)) / intervals);
    const point = (k: number) =>
      fround(k < (intervals + 1) / 2 ? fround(0.1) + step * k : 1 - step * (intervals - k));
    for (let k = 0; k < intervals; k++) {
      const middle = fround(fround(point(k) + point(k + 1)) / 2);
      const value = fround(middle * fround(10 ** (i - 6)));
      values.push(value, -value);
    }
  }
  return Float32Array.from(values).sort();
}
