// LoRA's own products: u = s·x·Aᵀ down, g = s·dy·B back, and the gradients of A and B. The products with u and g on
// the left belong to the linear layer (linear.cpp).
#include <string.h>

#include "skinny.h"

namespace nt {
namespace {

// Whether `out` is the narrow side of scale · dy·B: a gradient that goes up through A.
bool goes_up(int64_t out, int64_t rank, float scale) { return out < rank && scale == 1.0f; }

// g[T,rank] = scale · dy[T,out]·B[out,rank].
int32_t project_back(nt_context *context, int32_t dtype, void *g, int64_t ldg, const void *dy, int64_t lddy,
                     const void *b, float scale, int64_t T, int64_t out, int64_t rank) {
  if (goes_up(out, rank, scale))
    return rank_product(context, dtype, g, dtype, ldg, dy, lddy, as_stored(b, dtype, rank), T, rank, out,
                            false);
  return narrow_product(context, dtype, g, ldg, dy, lddy, as_stored(b, dtype, rank), scale, T, rank, out);
}

int32_t lora_forward(nt_context *context, int32_t dtype, void *u, void *u2, int64_t ldu2, const void *x, int64_t ldx,
                     const void *a, float scale, int64_t T, int64_t R, int64_t in, int32_t /*rows*/) {
  const Matrix q = transposed(a, dtype, in);
  const int32_t status = narrow_product(context, dtype, u, R, x, ldx, q, scale, T, R, in);
  if (status != NT_OK || u2 == nullptr) return status;
  for (int64_t t = 0; t < T; t++)
    memcpy(columns_from(u2, dtype, t * ldu2), columns_from(u, dtype, t * R), size_t(R * size_of(dtype)));
  return NT_OK;
}

int32_t lora_backward(nt_context *context, int32_t dtype, void *g, int64_t ldg, const void *dy, int64_t lddy,
                      const void *u, int64_t ldu, const nt_lora_target *targets, int64_t count, int64_t rank,
                      float scale, int64_t T) {
  for (int64_t i = 0; i < count; i++) {
    const nt_lora_target &target = targets[i];
    if (target.rows == 0) continue;
    const auto run = [&](int64_t first, int64_t rows, float *db) {
      const void *own_dy = columns_from(dy, dtype, first * lddy + target.row);
      void *own_g = columns_from(g, dtype, first * ldg + target.column);
      const int32_t status =
          project_back(context, dtype, own_g, ldg, own_dy, lddy, target.b, scale, rows, target.rows, rank);
      if (status != NT_OK || db == nullptr) return status;
      const void *own_u = columns_from(u, dtype, first * ldu + target.column);
      return outer_product(context, dtype, db, true, own_u, ldu, own_dy, lddy, rows, rank, target.rows);
    };
    // rank_product's memory is the context's: one call at a time.
    const int32_t status = goes_up(target.rows, rank, scale)
                               ? run(0, T, target.db)
                               : by_outer_rows(context, dtype, T, target.db, target.rows * rank, run);
    if (status != NT_OK) return status;
  }
  return NT_OK;
}

int32_t lora_backward_a(nt_context *context, int32_t dtype, float *da, const void *g, int64_t ldg, const void *x,
                        int64_t ldx, int64_t T, int64_t R, int64_t in) {
  return outer_product(context, dtype, da, false, g, ldg, x, ldx, T, R, in);
}

}  // namespace
}  // namespace nt

#include "../entry/lora.h"
