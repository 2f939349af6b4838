// Linear layers with an optional low-rank (LoRA) term: y = x·Wᵀ + bias + u·Bᵀ, dx = dy·W + g·A, dW += dyᵀ·x.
//
// For many rows the low-rank term is part of the product's sum (amx_matmul.h, word_matmul.h). For few rows it is written first
// and the base product is added to it in registers: in bf16 what is rounded in between is the small term alone.
#include <string.h>

#include "../entry/entry.h"
#include "amx_matmul.h"
#include "few_rows.h"
#include "parallel.h"
#include "rounding.h"
#include "scratch.h"
#include "skinny.h"
#include "vec.h"
#include "weight.h"
#include "word_matmul.h"

namespace nt {

namespace {

// Up to so many threads look the same values up as they pack them: that costs about as much as looking them up once and
// packing them from memory. Beyond that, each has too few rows to use them for.
constexpr int64_t kMostLookUps = 2;

// Whether word_matmul packs a weight from where its values are, in NF4 or in a stack's parts.
bool packs_weight(nt_context *context, const nt_weight *weight, const Product &product, int64_t rank) {
  if (!words_multiply(context, weight->dtype, product.m)) return false;
  bool is_coded = weight->scratch != nullptr;
  for (int64_t i = 0; i < weight->count; i++) is_coded |= weight->parts[i]->scratch != nullptr;
  return !is_coded || threads_that_pack(context, product, rank) <= kMostLookUps;
}

// Makes a weight that is no matrix the product's right operand: as it is where packing reads it (a stack comes here only
// then: takes_stack), else (in NF4) expanded into its scratch, in panels or tiles where the product reads them, or as a dense
// weight lies.
int32_t expand(nt_context *context, const nt_weight *weight, Product &product, bool transposed, int64_t rank = 0,
               bool by_amx = false) {
  if (weight->data != nullptr) return NT_OK;
  if (weight->count > 0 || (!by_amx && packs_weight(context, weight, product, rank))) {
    product.b_weight = {weight, transposed};
    return NT_OK;
  }
  bool is_blocked = false;
  product.b.data = product.b_blocked = weight->scratch;
  if (nf4_makes_panels(weight)) {
    int32_t status = NT_OK;
    if (by_amx)
      is_blocked = amx_takes_tiles(product);
    else if (!words_multiply(context, weight->dtype, product.m))
      status = takes_panels(context, product, &is_blocked);
    if (status != NT_OK) return status;
  }
  if (is_blocked) {
    nf4_panels(context, weight, transposed, by_amx);
  } else {
    product.b_blocked = nullptr;
    nf4_dequantize(context, weight->scratch, weight->dtype, weight->nf4, weight->out * weight->in);
  }
  return NT_OK;
}

void copy_rows(void *to, const void *from, int64_t rows, int64_t distance, int64_t bytes) {
  for (int64_t i = 0; i < rows; i++)
    memcpy(static_cast<char *>(to) + i * distance, static_cast<const char *>(from) + i * distance, size_t(bytes));
}

// The product's m rows as the first of a tile, which zeros fill up. Rows lie as far apart as in the product itself, so
// that it is computed in the same way.
int32_t part_of_tile(nt_context *context, const Product &product, int64_t tile) {
  static thread_local Scratch memory;
  const int64_t a_distance = product.a.row * size_of(product.a.dtype), c_distance = product.ldc * size_of(product.c_dtype);
  const int64_t a_bytes = round_up(tile * a_distance, 64), c_bytes = product.n * size_of(product.c_dtype);
  auto *a = static_cast<char *>(memory.at_least(a_bytes + tile * c_distance));
  if (a == nullptr) return fail(NT_OUT_OF_MEMORY, "linear: no memory for a tile of %lld rows", (long long)tile);
  char *c = a + a_bytes;
  memset(a, 0, size_t(a_bytes));
  copy_rows(a, product.a.data, product.m, a_distance, product.k * size_of(product.a.dtype));
  if (product.accumulate) {
    memset(c, 0, size_t(tile * c_distance));
    copy_rows(c, product.c, product.m, c_distance, c_bytes);
  }
  Product whole = product;
  whole.m = tile, whole.a.data = a, whole.c = c;
  const int32_t status = matmul(context, whole);
  if (status == NT_OK) copy_rows(product.c, c, product.m, c_distance, c_bytes);
  return status;
}

// NT_ROWS_TILED: all products have `tile` rows, so that a row's result does not depend on how many there are.
int32_t in_tiles(nt_context *context, const nt_weight *weight, Product product) {
  const int64_t T = product.m, tile = tile_rows(context, weight->dtype), rest = T % tile;
  if (words_multiply(context, weight->dtype, tile)) {
    const int32_t status = expand(context, weight, product, true);
    return status == NT_OK ? word_matmul(context, product, {}) : status;
  }
  product.m = tile;
  int32_t status = expand(context, weight, product, true);
  product.m = T - rest;
  if (status == NT_OK && product.m > 0) status = matmul_tiles(context, product, tile);
  if (status != NT_OK || rest == 0) return status;
  return part_of_tile(context, rows_from(product, T - rest, rest), tile);
}

Product forward_product(const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc, const void *a, int64_t lda,
                        const float *bias, bool accumulate, int64_t T) {
  return {T, weight->out, weight->in, as_stored(a, weight->dtype, lda),
          transposed(weight->data, weight->dtype, weight->ld), nullptr, c, c_dtype, ldc, bias, accumulate};
}
Product backward_product(const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc, const void *a, int64_t lda,
                         bool accumulate, int64_t T) {
  return {T, weight->in, weight->out, as_stored(a, weight->dtype, lda),
          as_stored(weight->data, weight->dtype, weight->ld), nullptr, c, c_dtype, ldc, nullptr, accumulate};
}

// Whether the low-rank term can be part of the product's sum.
bool in_one_sum(nt_context *context, int32_t dtype, int64_t rows, const LowRankTerm &term) {
  return amx_multiplies(context, dtype, rows) ||
         (words_multiply(context, dtype, rows) && term.width() <= kMostLowRank);
}

int32_t one_sum(nt_context *context, const nt_weight *weight, Product product, bool transposed, const LowRankTerm &term) {
  const bool by_amx = amx_multiplies(context, weight->dtype, product.m);
  const int32_t status = expand(context, weight, product, transposed, term.width(), by_amx);
  if (status != NT_OK) return status;
  return by_amx ? amx_matmul(context, product, term) : word_matmul(context, product, term);
}

// Whether a product with a stack is one sum. As products of their own, its parts would each pack the same rows again, and
// write and read dx; packing the weight costs the same from one part or several. oneDNN and AMX's products want a matrix.
bool takes_stack(nt_context *context, const nt_weight *weight, const Product &product, int64_t rank) {
  return product.m > kFewRows && rank <= kMostLowRank && packs_weight(context, weight, product, rank);
}

bool forward_takes_stack(nt_context *context, const nt_weight *weight, const nt_lora_block *blocks, int64_t count,
                         int64_t rank, int64_t T, int32_t rows) {
  const LowRankTerm term = {nullptr, 0, rank, nullptr, blocks, count};
  const Product product = forward_product(weight, nullptr, weight->dtype, weight->out, nullptr, weight->in, nullptr, false, T);
  return rows == NT_ROWS_TOGETHER && takes_stack(context, weight, product, term.width());
}

bool backward_takes_stack(nt_context *context, const nt_weight *weight, int64_t rank, int64_t T) {
  const Product product = backward_product(weight, nullptr, weight->dtype, weight->in, nullptr, weight->out, false, T);
  return takes_stack(context, weight, product, rank);
}

}  // namespace

int32_t times_weight_transposed(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                                const void *a, int64_t lda, const float *bias, bool accumulate, int64_t T,
                                int32_t rows) {
  const bool few = rows == NT_ROWS_EACH || (rows == NT_ROWS_TOGETHER && T <= kFewRows);
  if (few && weight->ld == weight->in) {
    const auto product = amx_takes_rows(context, weight) ? amx_rows_product : few_rows_product;
    return product(context, weight, c, c_dtype, ldc, a, lda, bias, accumulate, T);
  }
  Product product = forward_product(weight, c, c_dtype, ldc, a, lda, bias, accumulate, T);
  if (rows != NT_ROWS_TOGETHER) return in_tiles(context, weight, product);
  const int32_t status = expand(context, weight, product, true);
  return status == NT_OK ? matmul(context, product) : status;
}

int32_t times_weight(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                     const void *a, int64_t lda, bool accumulate, int64_t T) {
  Product product = backward_product(weight, c, c_dtype, ldc, a, lda, accumulate, T);
  const int32_t status = expand(context, weight, product, false);
  return status == NT_OK ? matmul(context, product) : status;
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
    const void *left = columns_from(u, dtype, block.column);
    void *columns = columns_from(y, y_dtype, block.row);
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

int32_t linear_forward(nt_context *context, const nt_weight *weight, void *y, int32_t y_dtype, int64_t ldy,
                       const void *x, int64_t ldx, const float *bias, const void *u, int64_t ldu,
                       const nt_lora_block *blocks, int64_t count, int64_t rank, int64_t T, int32_t rows) {
  const LowRankTerm term = {u, ldu, rank, nullptr, count > 0 ? blocks : nullptr, count};
  if (rows == NT_ROWS_TOGETHER && T > kFewRows && in_one_sum(context, weight->dtype, T, term))
    return one_sum(context, weight, forward_product(weight, y, y_dtype, ldy, x, ldx, bias, false, T), true, term);
  if (count > 0)
    NT_TRY(low_rank_forward(context, weight->dtype, y, y_dtype, ldy, u, ldu, blocks, count, rank, T, weight->out));
  return times_weight_transposed(context, weight, y, y_dtype, ldy, x, ldx, bias, count > 0, T, rows);
}

int32_t linear_backward_input(nt_context *context, const nt_weight *weight, void *dx, int64_t lddx, const void *dy,
                              int64_t lddy, const void *g, int64_t ldg, const void *a, int64_t rank, bool accumulate,
                              int64_t T) {
  const LowRankTerm term = {g, ldg, rank, rank > 0 ? a : nullptr};
  if (in_one_sum(context, weight->dtype, T, term))
    return one_sum(context, weight, backward_product(weight, dx, weight->dtype, lddx, dy, lddy, accumulate, T), false,
                   term);
  if (rank > 0)
    NT_TRY(low_rank_backward(context, weight->dtype, dx, lddx, g, ldg, a, rank, accumulate, T, weight->in));
  return times_weight(context, weight, dx, weight->dtype, lddx, dy, lddy, accumulate || rank > 0, T);
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
