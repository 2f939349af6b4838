// Tensors are thin handles on device memory: they own nothing. Arena (arena.ts) owns it.

import { NeftuneError } from "../errors.ts";
import { type FloatDType, floatTypes } from "../floats.ts";

/** Element types of device tensors: activations, weights, statistics, ids. */
export type DType = FloatDType | "i32";

/** The native interface's nt_dtype. */
export const dtypeCode = {
  f32: floatTypes.f32.code,
  bf16: floatTypes.bf16.code,
  f16: floatTypes.f16.code,
} as const;

export const dtypeBytes: Record<DType, number> = {
  f32: floatTypes.f32.bytes,
  bf16: floatTypes.bf16.bytes,
  f16: floatTypes.f16.bytes,
  i32: 4,
};

/** How many elements a tensor of this shape has. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);

/** Row-major device memory seen as `shape`; rows lie `rowStride` elements apart. */
export class Tensor {
  readonly ptr: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Elements from one row (index of the first dimension) to the next. */
  readonly rowStride: number;
  readonly rowCount: number;
  /** Elements in a row. */
  readonly columnCount: number;

  constructor(ptr: number, dtype: DType, shape: readonly number[], rowStride?: number) {
    this.ptr = ptr;
    this.dtype = dtype;
    this.shape = shape;
    // A step asks for these thousands of times.
    this.rowCount = shape[0] ?? 1;
    let columns = 1;
    for (let i = 1; i < shape.length; i++) columns *= shape[i]!;
    this.columnCount = columns;
    this.rowStride = rowStride ?? columns;
  }

  /** Number of elements. */
  get size(): number {
    return this.rowCount * this.columnCount;
  }

  get bytes(): number {
    return this.size * dtypeBytes[this.dtype];
  }

  get contiguous(): boolean {
    return this.rowStride === this.columnCount;
  }

  /** Rows begin … begin + count. */
  rows(begin: number, count: number): Tensor {
    if (begin < 0 || count < 0 || begin + count > this.rowCount) {
      throw new NeftuneError("shape", `rows ${begin}+${count} of a tensor of shape [${this.shape}]`);
    }
    const ptr = this.ptr + begin * this.rowStride * dtypeBytes[this.dtype];
    return new Tensor(ptr, this.dtype, [count, ...this.shape.slice(1)], this.rowStride);
  }

  /** Columns begin … begin + count of a two-dimensional tensor. */
  columns(begin: number, count: number): Tensor {
    if (this.shape.length !== 2 || begin < 0 || begin + count > this.columnCount) {
      throw new NeftuneError("shape", `columns ${begin}+${count} of a tensor of shape [${this.shape}]`);
    }
    const ptr = this.ptr + begin * dtypeBytes[this.dtype];
    return new Tensor(ptr, this.dtype, [this.rowCount, count], this.rowStride);
  }

  /** With `count` more columns, which the rows have room for. */
  widened(count: number): Tensor {
    const columns = this.columnCount + count;
    if (this.shape.length !== 2 || columns > this.rowStride)
      throw new NeftuneError("shape", `${count} columns more of a tensor of shape [${this.shape}]`);
    return new Tensor(this.ptr, this.dtype, [this.rowCount, columns], this.rowStride);
  }

  /** The same contiguous elements under another shape. */
  reshape(shape: readonly number[]): Tensor {
    const other = new Tensor(this.ptr, this.dtype, shape);
    if (!this.contiguous || other.size !== this.size) {
      throw new NeftuneError("shape", `a tensor of shape [${this.shape}] cannot be seen as [${shape}]`);
    }
    return other;
  }

  /** The first elements of a contiguous buffer that may be larger, under another shape. */
  reshapeTo(shape: readonly number[]): Tensor {
    const part = new Tensor(this.ptr, this.dtype, shape);
    if (!this.contiguous || part.size > this.size) {
      throw new NeftuneError("shape", `a buffer of shape [${this.shape}] has no room for [${shape}]`);
    }
    return part;
  }

  toString(): string {
    return `${this.dtype}[${this.shape}]`;
  }
}
