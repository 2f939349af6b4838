// Shape and dtype checks in front of native calls: JavaScript numbers wrap silently at the boundary.

import { NeftuneError } from "../../errors.ts";
import { type DType, dtypeCode, type Tensor } from "../tensor.ts";

/** Throws a NeftuneError that names operation, tensor, expected and got, unless `tensor` is [rows, columns] of `dtype`. */
export function expectMatrix(
  op: string,
  name: string,
  tensor: Tensor,
  dtype: DType,
  rows: number,
  columns: number,
): void {
  if (tensor.dtype !== dtype || tensor.rowCount !== rows || tensor.columnCount !== columns) {
    throw new NeftuneError("shape", `${op}: ${name} must be ${dtype}[${rows},${columns}], got ${tensor}`);
  }
}

/** The same for a contiguous tensor of `size` elements. */
export function expectVector(op: string, name: string, tensor: Tensor, dtype: DType, size: number): void {
  if (tensor.dtype !== dtype || tensor.size < size || !tensor.contiguous) {
    throw new NeftuneError("shape", `${op}: ${name} must be ${dtype}[${size}], got ${tensor}`);
  }
}

export function expectContiguous(op: string, name: string, tensor: Tensor): void {
  if (!tensor.contiguous) throw new NeftuneError("shape", `${op}: ${name} must be contiguous, got ${tensor}`);
}

/** The nt_dtype of activations, or an error. */
export function activationCode(op: string, tensor: Tensor): number {
  if (tensor.dtype !== "f32" && tensor.dtype !== "bf16") {
    throw new NeftuneError("dtype", `${op}: activations must be f32 or bf16, got ${tensor}`);
  }
  return dtypeCode[tensor.dtype];
}

/** The nt_dtype of a tensor of floats, or an error. */
export function storedCode(op: string, tensor: Tensor): number {
  if (tensor.dtype === "i32") throw new NeftuneError("dtype", `${op}: ${tensor} holds integers`);
  return dtypeCode[tensor.dtype];
}
