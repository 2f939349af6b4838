// Matrices that lie in larger ones, zeros behind and below them: what files hold and what the device holds.

type Shape = readonly number[];

const isSame = (a: Shape, b: Shape) => a.every((n, i) => n === b[i]);

/** The values of a matrix of `shape` out of one of `laid`. */
export function cutOut(
  values: Float32Array<ArrayBuffer>,
  shape: Shape,
  laid: Shape,
): Float32Array<ArrayBuffer> {
  if (isSame(shape, laid)) return values;
  const [rows = 1, columns = 1] = shape;
  const width = laid[1]!;
  const cut = new Float32Array(rows * columns);
  for (let i = 0; i < rows; i++) cut.set(values.subarray(i * width, i * width + columns), i * columns);
  return cut;
}

/** The values of a matrix of `laid` that holds one of `shape`. */
export function layInto(values: Float32Array, shape: Shape, laid: Shape): Float32Array {
  if (isSame(shape, laid)) return values;
  const [rows = 1, columns = 1] = shape;
  const [laidRows = 1, width = 1] = laid;
  const larger = new Float32Array(laidRows * width);
  for (let i = 0; i < rows; i++) larger.set(values.subarray(i * columns, (i + 1) * columns), i * width);
  return larger;
}
