// Operands of matrix products.
#pragma once
#include "check.h"

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

// A stored matrix of f32 or bf16 from a column on.
inline const void *columns_from(const void *data, int32_t dtype, int64_t column) {
  return static_cast<const char *>(data) + column * size_of(dtype);
}
inline void *columns_from(void *data, int32_t dtype, int64_t column) {
  return static_cast<char *>(data) + column * size_of(dtype);
}

}  // namespace nt
