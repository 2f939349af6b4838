// Linear layers with an optional low-rank (LoRA) term: y = x·Wᵀ + bias + u·Bᵀ, dx = dy·W + g·A, dW += dyᵀ·x.
//
// The low-rank product is written first and oneDNN adds the base product to it in registers: in bf16 what is rounded
// in between is the small term alone, and no pass over y is added.
#include <string.h>

#include "few_rows.h"
#include "parallel.h"
#include "skinny.h"
#include "vec.h"
#include "weight.h"

namespace nt {

namespace {

// A product whose right operand is an NF4 weight, expanded into its scratch: in oneDNN's own layout where that is
// known, else as a dense weight lies.
int32_t nf4_matmul(nt_context *context, const nt_weight *weight, Product product, bool transposed) {
  bool panels = false;
  product.b.data = product.b_blocked = weight->scratch;
  if (nf4_makes_panels(weight)) {
    int32_t status = takes_panels(context, product, &panels);
    if (status != NT_OK) return status;
  }
  if (panels) {
    nf4_panels(context, weight, transposed);
  } else {
    product.b_blocked = nullptr;
    nf4_dequantize(context, weight->scratch, weight->dtype, weight->nf4, weight->out * weight->in);
  }
  return matmul(context, product);
}

}  // namespace

int32_t times_weight_transposed(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                                const void *a, int64_t lda, const float *bias, bool accumulate, int64_t T) {
  if (T <= kFewRows) {
    if (weight->scratch != nullptr)
      return nf4_few_rows(context, weight, c, c_dtype, ldc, a, lda, bias, accumulate, T);
    return few_rows_product(context, weight->dtype, c, c_dtype, ldc, a, lda, weight->data, bias, accumulate, T,
                            weight->out, weight->in);
  }
  const Product product = {T, weight->out, weight->in, as_stored(a, weight->dtype, lda),
                           transposed(weight->data, weight->dtype, weight->in), nullptr, c, c_dtype, ldc, bias,
                           accumulate};
  return weight->scratch != nullptr ? nf4_matmul(context, weight, product, true) : matmul(context, product);
}

int32_t times_weight(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                     const void *a, int64_t lda, bool accumulate, int64_t T) {
  const Product product = {T, weight->in, weight->out, as_stored(a, weight->dtype, lda),
                           as_stored(weight->data, weight->dtype, weight->in), nullptr, c, c_dtype, ldc, nullptr,
                           accumulate};
  return weight->scratch != nullptr ? nf4_matmul(context, weight, product, false) : matmul(context, product);
}

namespace {

// destination[columns] += Σ_t x[t, columns]; threads share the columns.
template <typename T>
void add_column_sums(int threads, float *destination, const T *x, int64_t ldx, int64_t rows, int64_t columns) {
  constexpr int64_t kBlock = 4 * kLanes;
  parallel_for(threads, (columns + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
    int64_t last = end * kBlock < columns ? end * kBlock : columns;
    int64_t j = begin * kBlock;
    for (; j + kBlock <= last; j += kBlock) {
      Vec sum[4] = {};
      for (int64_t t = 0; t < rows; t++)
        for (int i = 0; i < 4; i++) sum[i] += load(x + t * ldx + j + i * kLanes);
      for (int i = 0; i < 4; i++) store(destination + j + i * kLanes, load(destination + j + i * kLanes) + sum[i]);
    }
    for (; j < last; j++) {
      float sum = 0;
      for (int64_t t = 0; t < rows; t++) sum += to_float(x[t * ldx + j]);
      destination[j] += sum;
    }
  });
}

// y[T, begin … end] = 0.
void clear_columns(void *y, int32_t dtype, int64_t ldy, int64_t T, int64_t begin, int64_t end) {
  if (begin >= end) return;
  const int64_t size = size_of(dtype);
  for (int64_t t = 0; t < T; t++) memset(static_cast<char *>(y) + (t * ldy + begin) * size, 0, (end - begin) * size);
}

// y[T,out] = u·Bᵀ, zeros where no block is.
int32_t low_rank_forward(nt_context *context, int32_t dtype, void *y, int32_t y_dtype, int64_t ldy, const void *u,
                         int64_t ldu, const nt_lora_block *blocks, int64_t count, int64_t rank, int64_t T,
                         int64_t out) {
  int64_t row = 0;  // rows of W up to here have their low-rank term in y
  for (int64_t i = 0; i < count; i++) {
    const nt_lora_block &block = blocks[i];
    clear_columns(y, y_dtype, ldy, T, row, block.row);
    const char *left = static_cast<const char *>(u) + block.column * size_of(dtype);
    char *columns = static_cast<char *>(y) + block.row * size_of(y_dtype);
    int32_t status = rank_product(context, dtype, columns, y_dtype, ldy, left, ldu, transposed(block.b, dtype, rank), T,
                                  block.rows, rank, false);
    if (status != NT_OK) return status;
    row = block.row + block.rows;
  }
  clear_columns(y, y_dtype, ldy, T, row, out);
  return NT_OK;
}

// dx[T,in] = g[T,rank]·A[rank,in], added to what dx holds when `accumulate`.
int32_t low_rank_backward(nt_context *context, int32_t dtype, void *dx, int64_t lddx, const void *g, int64_t ldg,
                          const void *a, int64_t rank, bool accumulate, int64_t T, int64_t in) {
  return rank_product(context, dtype, dx, dtype, lddx, g, ldg, as_stored(a, dtype, in), T, in, rank, accumulate);
}

int32_t add_column_sums(nt_context *context, int32_t dtype, float *destination, const void *x, int64_t ldx,
                        int64_t rows, int64_t columns) {
  if (dtype == NT_F32)
    add_column_sums(context->threads, destination, static_cast<const float *>(x), ldx, rows, columns);
  else
    add_column_sums(context->threads, destination, static_cast<const bf16 *>(x), ldx, rows, columns);
  return NT_OK;
}

// dweight[out,in] += dyᵀ·x.
int32_t add_outer_product(nt_context *context, int32_t dtype, float *dweight, const void *dy, int64_t lddy,
                          const void *x, int64_t ldx, int64_t T, int64_t out, int64_t in) {
  return matmul(context, {out, in, T, transposed(dy, dtype, lddy), as_stored(x, dtype, ldx), nullptr, dweight, NT_F32, in,
                          nullptr, true});
}

}  // namespace
}  // namespace nt

#include "../entry/linear.h"
