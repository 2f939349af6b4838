// Matrix products: of many rows by word_matmul.h where that is faster, else by oneDNN. A primitive is made once a shape and
// kept (creation costs 0.3-1 ms, a lookup nothing); the context owns them, their scratchpad, and one scratch buffer for the
// kernels around them.
#pragma once
#include "../matrix.h"
#include "context.h"
#include "panel.h"

namespace nt {

// A weight, or its transpose; null: none.
struct WeightOperand {
  const nt_weight *weight = nullptr;
  bool transposed = false;
};

// c[m,n] = a[m,k] · b[k,n] + bias[n] (float32 or null), added to what c holds when `accumulate`. Sums in float32.
// b_blocked: b in the layout of what multiplies, oneDNN's or tiles (amx_packing.h), or null. oneDNN uses it where a and c
// are dense: it has no fast kernel for it with rows further apart, and then reads b itself.
// b_weight: the weight in NF4 or in parts that b is, in place of b's data: word_matmul.h alone can read it.
struct Product {
  int64_t m, n, k;
  Matrix a, b;
  const void *b_blocked;
  void *c;
  int32_t c_dtype;
  int64_t ldc;
  const float *bias;
  bool accumulate;
  WeightOperand b_weight = {};
};
int32_t matmul(nt_context *context, const Product &product);

inline const void *element(const Matrix &matrix, int64_t i, int64_t j) {
  return columns_from(matrix.data, matrix.dtype, i * matrix.row + j * matrix.column);
}

// The product's rows from `row` on, `rows` of them.
inline Product rows_from(Product product, int64_t row, int64_t rows) {
  product.m = rows;
  product.a.data = element(product.a, row, 0);
  product.c = columns_from(product.c, product.c_dtype, row * product.ldc);
  return product;
}

// run(part of the product) for each `tile` of its rows, up to the first that fails.
template <typename Run>
int32_t by_tiles(const Product &product, int64_t tile, Run run) {
  for (int64_t i = 0; i < product.m; i += tile) {
    const int32_t status = run(rows_from(product, i, product.m - i < tile ? product.m - i : tile));
    if (status != NT_OK) return status;
  }
  return NT_OK;
}

// matmul, `tile` rows of a and c after each other; m is a multiple of it. What becomes of a row depends neither on the
// other rows nor on m.
int32_t matmul_tiles(nt_context *context, const Product &product, int64_t tile);
// The fewest rows at which products with a weight of `dtype` are nearly as fast as with many.
int64_t tile_rows(nt_context *context, int32_t dtype);

// Whether the product reads b_blocked (which may still be undefined) and oneDNN's layout of it is kPanel columns after
// each other, without padding: in a panel, for each k in f32 and each pair of k in bf16, the columns' values side by
// side. A caller can then write b_blocked itself.
int32_t takes_panels(nt_context *context, const Product &product, bool *takes);

// One buffer a context, valid until the next call; grows and never shrinks. Null: out of memory.
void *scratch(nt_context *context, int64_t bytes);

// Frees all of the above.
void matmul_destroy(nt_context *context);

}  // namespace nt
