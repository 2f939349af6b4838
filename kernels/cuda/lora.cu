// LoRA's own products: u = s·x·Aᵀ down, g = s·dy·B back, and the gradients of A and B. The products with u and g on
// the left belong to the linear layer (linear.cu). bf16 with ranks and widths that are multiples of 8 runs on kernels
// of our own, which read the wide operand at the memory's rate; float32 and odd shapes go to cuBLASLt.
#include "blas.h"
#include "lora_down.h"
#include "lora_outer.h"

namespace nt {
namespace {

// c += wideᵀ·narrow (float32, dense [N,R]; [R,N] when c_transposed).
int32_t add_outer(nt_context *context, int32_t dtype, float *c, bool c_transposed, const void *wide, int64_t ld_wide,
                  const void *narrow, int64_t ld_narrow, int64_t T, int64_t N, int64_t R, const char *op) {
  if (dtype == NT_BF16 && can_lora_outer(wide, ld_wide, narrow, ld_narrow, N, R)) {
    NT_CUDA(lora_outer(context, c, c_transposed, wide, ld_wide, narrow, ld_narrow, T, N, R), op);
    return NT_OK;
  }
  if (c_transposed)
    return matmul(context, {R, N, T, transposed(narrow, dtype, ld_narrow), as_stored(wide, dtype, ld_wide),
                                c, NT_F32, N, nullptr, true});
  return matmul(context, {N, R, T, transposed(wide, dtype, ld_wide), as_stored(narrow, dtype, ld_narrow), c,
                              NT_F32, R, nullptr, true});
}

int32_t lora_forward(nt_context *context, int32_t dtype, void *u, const void *x, int64_t ldx, const void *a, float scale,
                     int64_t T, int64_t R, int64_t in) {
  if (dtype == NT_BF16 && can_lora_down<false>(u, R, x, ldx, a, in, T, in, R)) {
    NT_CUDA(lora_down<false>(context, u, R, x, ldx, a, in, scale, T, in, R), "lora_forward");
    return NT_OK;
  }
  return matmul(context, {T, R, in, as_stored(x, dtype, ldx), transposed(a, dtype, in), u, dtype, R,
                              nullptr, false, scale});
}

int32_t lora_backward(nt_context *context, int32_t dtype, void *g, int64_t ldg, float *db, const void *dy,
                      int64_t lddy, const void *u, int64_t ldu, const void *b, float scale, int64_t T, int64_t out,
                      int64_t rank) {
  if (dtype == NT_BF16 && can_lora_down<true>(g, ldg, dy, lddy, b, rank, T, out, rank)) {
    NT_CUDA(lora_down<true>(context, g, ldg, dy, lddy, b, rank, scale, T, out, rank), "lora_backward");
  } else {
    const int32_t status = matmul(context, {T, rank, out, as_stored(dy, dtype, lddy),
                                                as_stored(b, dtype, rank), g, dtype, ldg, nullptr, false, scale});
    if (status != NT_OK) return status;
  }
  if (db == nullptr) return NT_OK;
  return add_outer(context, dtype, db, false, dy, lddy, u, ldu, T, out, rank, "lora_backward");
}

int32_t lora_backward_a(nt_context *context, int32_t dtype, float *da, const void *g, const void *x, int64_t ldx,
                        int64_t T, int64_t R, int64_t in) {
  return add_outer(context, dtype, da, true, x, ldx, g, R, T, in, R, "lora_backward_a");
}

}  // namespace
}  // namespace nt

#include "../entry/lora.h"
