// Operands of matrix products.
#pragma once
#include <stdint.h>

namespace nt {

// Element (i, j) is data[i · row + j · column]; one of the two strides is 1. f32 or bf16.
struct Matrix {
  const void *data;
  int32_t dtype;
  int64_t row, column;
};

// A stored [rows, ld] matrix as it is, and as its transpose.
inline Matrix as_stored(const void *data, int32_t dtype, int64_t ld) { return {data, dtype, ld, 1}; }
inline Matrix transposed(const void *data, int32_t dtype, int64_t ld) { return {data, dtype, 1, ld}; }

}  // namespace nt
