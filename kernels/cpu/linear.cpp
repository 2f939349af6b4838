// Linear layers with an optional low-rank (LoRA) term: y = x·Wᵀ + bias + u·Bᵀ, dx = dy·W + g·A, dW += dyᵀ·x.
//
// The low-rank product is written first and oneDNN adds the base product to it in registers: in bf16 what is rounded
// in between is the small term alone, and no pass over y is added.
#include <stdlib.h>
#include <string.h>

#include "../lora_blocks.h"
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
  if (weight->scratch != nullptr && T <= kFewRows)
    return nf4_few_rows(context, weight, c, c_dtype, ldc, a, lda, bias, accumulate, T);
  const Product product = {T, weight->out, weight->in, as_stored(a, weight->dtype, lda),
                           transposed(weight->data, weight->dtype, weight->in), weight->forward, c, c_dtype, ldc, bias,
                           accumulate};
  return weight->scratch != nullptr ? nf4_matmul(context, weight, product, true) : matmul(context, product);
}

int32_t times_weight(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                     const void *a, int64_t lda, bool accumulate, int64_t T) {
  const Product product = {T, weight->in, weight->out, as_stored(a, weight->dtype, lda),
                           as_stored(weight->data, weight->dtype, weight->in), weight->backward, c, c_dtype, ldc,
                           nullptr, accumulate};
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

int32_t fill(nt_context *context, nt_weight *weight) {
  if (weight->forward != nullptr) {
    int32_t status = prepare(context, weight->forward, transposed(weight->data, weight->dtype, weight->in), weight->in,
                             weight->out);
    if (status != NT_OK) return status;
  }
  if (weight->backward != nullptr)
    return prepare(context, weight->backward, as_stored(weight->data, weight->dtype, weight->in), weight->out,
                   weight->in);
  return NT_OK;
}

// Bytes of the copies for the forward and the backward product.
int32_t copy_bytes(nt_context *context, int32_t dtype, int64_t out, int64_t in, int32_t uses, int64_t *forward,
                   int64_t *backward) {
  NT_CHECK_DTYPE("weight", dtype);
  NT_CHECK(out >= 0 && in >= 0, "weight: sizes must not be negative, got [%lld, %lld]", (long long)out, (long long)in);
  NT_CHECK((uses & ~(NT_WEIGHT_FORWARD | NT_WEIGHT_BACKWARD)) == 0, "weight: unknown uses %d", int(uses));
  *forward = *backward = 0;
  int32_t status = NT_OK;
  if (uses & NT_WEIGHT_FORWARD) status = prepared_bytes(context, dtype, in, out, forward);
  if (status == NT_OK && (uses & NT_WEIGHT_BACKWARD)) status = prepared_bytes(context, dtype, out, in, backward);
  return status;
}

void destroy(nt_weight *weight) {
  release(weight->forward);
  release(weight->backward);
  free(weight);
}

}  // namespace

}  // namespace nt

using nt::fail;

NT_API int32_t nt_weight_extra_bytes(nt_context *context, int32_t dtype, int64_t out, int64_t in, int32_t uses,
                                     int64_t *bytes) {
  int64_t forward, backward;
  int32_t status = nt::copy_bytes(context, dtype, out, in, uses, &forward, &backward);
  if (status == NT_OK) *bytes = forward + backward;
  return status;
}

NT_API int32_t nt_weight_create(nt_context *context, int32_t dtype, int64_t out, int64_t in, const void *data,
                                int32_t uses, nt_weight **result) {
  int64_t forward, backward;
  int32_t status = nt::copy_bytes(context, dtype, out, in, uses, &forward, &backward);
  if (status != NT_OK) return status;
  NT_CHECK(data != nullptr || out * in == 0, "weight: [%lld, %lld] without data", (long long)out, (long long)in);
  auto *weight = static_cast<nt_weight *>(calloc(1, sizeof(nt_weight)));
  if (weight == nullptr) return fail(NT_OUT_OF_MEMORY, "out of memory");
  *weight = {dtype, uses, out, in, data, nullptr, nullptr, {}, nullptr};
  if (forward > 0) weight->forward = nt::allocate(forward);
  if (backward > 0) weight->backward = nt::allocate(backward);
  if ((forward > 0 && weight->forward == nullptr) || (backward > 0 && weight->backward == nullptr))
    status = fail(NT_OUT_OF_MEMORY, "weight: no memory for %lld bytes of prepared copies",
                  (long long)(forward + backward));
  if (status == NT_OK) status = nt::fill(context, weight);
  if (status != NT_OK) {
    nt::destroy(weight);
    return status;
  }
  *result = weight;
  return NT_OK;
}

NT_API int32_t nt_weight_refresh(nt_context *context, nt_weight *weight) {
  NT_CHECK(weight != nullptr, "weight_refresh: no weight");
  return nt::fill(context, weight);
}

NT_API int32_t nt_weight_destroy(nt_context *, nt_weight *weight) {
  if (weight != nullptr) nt::destroy(weight);
  return NT_OK;
}

NT_API int32_t nt_linear_forward(nt_context *context, int32_t dtype, void *y, int32_t y_dtype, int64_t ldy,
                                 const void *x, int64_t ldx, const nt_weight *weight, const float *bias,
                                 const void *u, int64_t ldu, const nt_lora_block *blocks, int64_t count, int64_t rank,
                                 int64_t T) {
  NT_CHECK_DTYPE("linear_forward", dtype);
  NT_CHECK(weight != nullptr, "linear_forward: no weight");
  NT_CHECK(weight->dtype == dtype, "linear_forward: x has dtype %d, the weight %d", int(dtype), int(weight->dtype));
  NT_CHECK(y_dtype == dtype || y_dtype == NT_F32, "linear_forward: y must have x's dtype or be f32, got %d",
           int(y_dtype));
  NT_CHECK(T >= 0, "linear_forward: T must not be negative, got %lld", (long long)T);
  NT_CHECK(ldx >= weight->in && ldy >= weight->out,
           "linear_forward: rows of %lld and %lld elements do not fit into distances %lld and %lld",
           (long long)weight->in, (long long)weight->out, (long long)ldx, (long long)ldy);
  int32_t checked = nt::check_lora_blocks("linear_forward", u, ldu, blocks, count, rank, weight->out);
  if (checked != NT_OK) return checked;
  if (T == 0 || weight->out == 0 || weight->in == 0) return NT_OK;
  NT_CHECK(y != nullptr && x != nullptr, "linear_forward: x or y is null");
  int64_t row = 0;  // rows of W up to here have their low-rank term in y
  for (int64_t i = 0; i < count; i++) {
    const nt_lora_block &block = blocks[i];
    nt::clear_columns(y, y_dtype, ldy, T, row, block.row);
    const char *left = static_cast<const char *>(u) + block.column * nt::size_of(dtype);
    char *columns = static_cast<char *>(y) + block.row * nt::size_of(y_dtype);
    int32_t status = nt::rank_product(context, dtype, columns, y_dtype, ldy, left, ldu,
                                      nt::transposed(block.b, dtype, rank), T, block.rows, rank, false);
    if (status != NT_OK) return status;
    row = block.row + block.rows;
  }
  if (count > 0) nt::clear_columns(y, y_dtype, ldy, T, row, weight->out);
  return nt::times_weight_transposed(context, weight, y, y_dtype, ldy, x, ldx, bias, count > 0, T);
}

NT_API int32_t nt_linear_backward_input(nt_context *context, int32_t dtype, void *dx, int64_t lddx, const void *dy,
                                        int64_t lddy, const nt_weight *weight, const void *g, int64_t ldg,
                                        const void *a, int64_t rank, int32_t accumulate, int64_t T) {
  NT_CHECK_DTYPE("linear_backward_input", dtype);
  NT_CHECK(weight != nullptr, "linear_backward_input: no weight");
  NT_CHECK(weight->dtype == dtype, "linear_backward_input: dy has dtype %d, the weight %d", int(dtype),
           int(weight->dtype));
  NT_CHECK(T >= 0 && rank >= 0, "linear_backward_input: sizes must not be negative, got T %lld, rank %lld",
           (long long)T, (long long)rank);
  NT_CHECK(lddx >= weight->in && lddy >= weight->out && ldg >= rank,
           "linear_backward_input: rows of %lld, %lld, %lld elements do not fit into distances %lld, %lld, %lld",
           (long long)weight->in, (long long)weight->out, (long long)rank, (long long)lddx, (long long)lddy,
           (long long)ldg);
  if (T == 0 || weight->out == 0 || weight->in == 0) return NT_OK;
  NT_CHECK(dx != nullptr && dy != nullptr, "linear_backward_input: dx or dy is null");
  NT_CHECK(rank == 0 || (g != nullptr && a != nullptr), "linear_backward_input: rank %lld needs g and A",
           (long long)rank);
  if (rank > 0) {
    int32_t status = nt::rank_product(context, dtype, dx, dtype, lddx, g, ldg, nt::as_stored(a, dtype, weight->in), T,
                                      weight->in, rank, accumulate != 0);
    if (status != NT_OK) return status;
  }
  return nt::times_weight(context, weight, dx, dtype, lddx, dy, lddy, accumulate != 0 || rank > 0, T);
}

NT_API int32_t nt_linear_backward_weight(nt_context *context, int32_t dtype, float *dweight, float *dbias,
                                         const void *dy, int64_t lddy, const void *x, int64_t ldx, int64_t T,
                                         int64_t out, int64_t in) {
  NT_CHECK_DTYPE("linear_backward_weight", dtype);
  NT_CHECK(T >= 0 && out >= 0 && in >= 0, "linear_backward_weight: sizes must not be negative, got T %lld, [%lld, %lld]",
           (long long)T, (long long)out, (long long)in);
  NT_CHECK(lddy >= out && ldx >= in,
           "linear_backward_weight: rows of %lld and %lld elements do not fit into distances %lld and %lld",
           (long long)out, (long long)in, (long long)lddy, (long long)ldx);
  if (T == 0 || out == 0) return NT_OK;
  NT_CHECK(dy != nullptr, "linear_backward_weight: dy is null");
  if (dbias != nullptr) {
    if (dtype == NT_F32) {
      nt::add_column_sums(context->threads, dbias, static_cast<const float *>(dy), lddy, T, out);
    } else {
      nt::add_column_sums(context->threads, dbias, static_cast<const nt::bf16 *>(dy), lddy, T, out);
    }
  }
  if (in == 0) return NT_OK;
  NT_CHECK(dweight != nullptr && x != nullptr, "linear_backward_weight: dweight or x is null");
  return nt::matmul(context, {out, in, T, nt::transposed(dy, dtype, lddy), nt::as_stored(x, dtype, ldx), nullptr, dweight,
                              NT_F32, in, nullptr, true});
}
