// LoRA's own products: u = s·x·Aᵀ down, g = s·dy·B back, and the gradients of A and B. The products with u and g on
// the left belong to the linear layer (linear.cu). bf16 with ranks and widths that are multiples of 8 runs on kernels
// of our own, which read the wide operand at the memory's rate; float32 and odd shapes go to cuBLASLt.
#include "blas.h"
#include "lora_backward.h"
#include "lora.h"
#include "lora_down.h"
#include "lora_outer.h"

namespace nt {

int32_t add_lora_a(nt_context *context, int32_t dtype, float *da, const void *g, int64_t ldg, const void *x, int64_t ldx,
                   int64_t T, int64_t R, int64_t in) {
  if (dtype == NT_BF16 && can_lora_outer(x, ldx, g, ldg, in, R)) {
    const OuterProduct product = {da,  1,  in, static_cast<const bf16 *>(x), ldx, static_cast<const bf16 *>(g),
                                  ldg, in, R};
    NT_CUDA(lora_outer(context, product, T), "lora_backward_a");
    return NT_OK;
  }
  return matmul(context, {R, in, T, transposed(g, dtype, ldg), as_stored(x, dtype, ldx), da, NT_F32, in, nullptr, true});
}

namespace {

// db[N,R] += dyᵀ·u by cuBLASLt.
int32_t add_outer(nt_context *context, int32_t dtype, float *db, const void *dy, int64_t lddy, const void *u,
                  int64_t ldu, int64_t T, int64_t N, int64_t R) {
  return matmul(context, {N, R, T, transposed(dy, dtype, lddy), as_stored(u, dtype, ldu), db, NT_F32, R, nullptr, true});
}

int32_t lora_forward(nt_context *context, int32_t dtype, void *u, void *u2, int64_t ldu2, const void *x, int64_t ldx,
                     const void *a, float scale, int64_t T, int64_t R, int64_t in, int32_t rows) {
  const bool down = can_lora_down(u, R, x, ldx, a, in, T, in, R) &&
                    (u2 == nullptr || can_lora_down(u2, ldu2, x, ldx, a, in, T, in, R));
  if (dtype == NT_BF16 && down) {
    NT_CUDA(lora_down(context, u, u2, ldu2, x, ldx, a, in, scale, T, in, R, rows), "lora_forward");
    return NT_OK;
  }
  Product product = {T, R, in, as_stored(x, dtype, ldx), transposed(a, dtype, in), u, dtype, R, nullptr, false, scale};
  const int32_t status = matmul_rows(context, product, rows);
  if (status != NT_OK || u2 == nullptr) return status;
  product.c = u2;
  product.ldc = ldu2;
  return matmul_rows(context, product, rows);
}

int32_t lora_backward(nt_context *context, int32_t dtype, void *g, int64_t ldg, const void *dy, int64_t lddy,
                      const void *u, int64_t ldu, const nt_lora_target *targets, int64_t count, int64_t rank,
                      float scale, int64_t T) {
  if (dtype == NT_BF16 && can_lora_backward(g, ldg, dy, lddy, u, ldu, targets, count, rank, T)) {
    NT_CUDA(lora_backward_fast(context, g, ldg, dy, lddy, u, ldu, targets, count, rank, scale, T), "lora_backward");
    return NT_OK;
  }
  for (int64_t i = 0; i < count; i++) {
    const nt_lora_target &target = targets[i];
    if (target.rows == 0) continue;
    const void *own_dy = columns_from(dy, dtype, target.row);
    int32_t status = matmul(context, {T, rank, target.rows, as_stored(own_dy, dtype, lddy),
                                      as_stored(target.b, dtype, rank),
                                      columns_from(g, dtype, target.column), dtype, ldg, nullptr,
                                      false, scale});
    if (status == NT_OK && target.db != nullptr)
      status = add_outer(context, dtype, target.db, own_dy, lddy, columns_from(u, dtype, target.column), ldu, T,
                         target.rows, rank);
    if (status != NT_OK) return status;
  }
  return NT_OK;
}

int32_t lora_backward_a(nt_context *context, int32_t dtype, float *da, const void *g, int64_t ldg, const void *x,
                        int64_t ldx, int64_t T, int64_t R, int64_t in) {
  return add_lora_a(context, dtype, da, g, ldg, x, ldx, T, R, in);
}

}  // namespace
}  // namespace nt

#include "../entry/lora.h"
