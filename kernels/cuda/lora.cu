// LoRA's own products: u = s·x·Aᵀ down, g = s·dy·B back, and the gradients of A and B. The products with u and g on
// the left belong to the linear layer (linear.cu). bf16 with ranks and widths that are multiples of 8 runs on kernels
// of our own, which read the wide operand at the memory's rate; float32 and odd shapes go to cuBLASLt.
#include "blas.h"
#include "lora_down.h"
#include "lora_outer.h"

namespace {

// c += wideᵀ·narrow (float32, dense [N,R]; [R,N] when c_transposed).
int32_t add_outer(nt_context *context, int32_t dtype, float *c, bool c_transposed, const void *wide, int64_t ld_wide,
                  const void *narrow, int64_t ld_narrow, int64_t T, int64_t N, int64_t R, const char *op) {
  if (dtype == NT_BF16 && nt::can_lora_outer(wide, ld_wide, narrow, ld_narrow, N, R)) {
    NT_CUDA(nt::lora_outer(context, c, c_transposed, wide, ld_wide, narrow, ld_narrow, T, N, R), op);
    return NT_OK;
  }
  if (c_transposed)
    return nt::matmul(context, {R, N, T, nt::transposed(narrow, dtype, ld_narrow), nt::as_stored(wide, dtype, ld_wide),
                                c, NT_F32, N, nullptr, true});
  return nt::matmul(context, {N, R, T, nt::transposed(wide, dtype, ld_wide), nt::as_stored(narrow, dtype, ld_narrow), c,
                              NT_F32, R, nullptr, true});
}

}  // namespace

NT_API int32_t nt_lora_forward(nt_context *context, int32_t dtype, void *u, const void *x, int64_t ldx,
                               const void *a, float scale, int64_t T, int64_t R, int64_t in) {
  NT_CHECK_DTYPE("lora_forward", dtype);
  NT_CHECK(T >= 0 && R >= 0 && in >= 0, "lora_forward: sizes must not be negative, got T %lld, R %lld, in %lld",
           (long long)T, (long long)R, (long long)in);
  NT_CHECK(ldx >= in, "lora_forward: rows of %lld elements do not fit into distance %lld", (long long)in,
           (long long)ldx);
  if (T == 0 || R == 0 || in == 0) return NT_OK;
  NT_CHECK(u != nullptr && x != nullptr && a != nullptr, "lora_forward: u, x or A is null");
  if (dtype == NT_BF16 && nt::can_lora_down<false>(u, R, x, ldx, a, in, T, in, R)) {
    NT_CUDA(nt::lora_down<false>(context, u, R, x, ldx, a, in, scale, T, in, R), "lora_forward");
    return NT_OK;
  }
  return nt::matmul(context, {T, R, in, nt::as_stored(x, dtype, ldx), nt::transposed(a, dtype, in), u, dtype, R,
                              nullptr, false, scale});
}

NT_API int32_t nt_lora_backward(nt_context *context, int32_t dtype, void *g, int64_t ldg, float *db, const void *dy,
                                int64_t lddy, const void *u, int64_t ldu, const void *b, float scale, int64_t T,
                                int64_t out, int64_t rank) {
  NT_CHECK_DTYPE("lora_backward", dtype);
  NT_CHECK(T >= 0 && rank >= 0 && out >= 0, "lora_backward: sizes must not be negative, got T %lld, out %lld, rank %lld",
           (long long)T, (long long)out, (long long)rank);
  NT_CHECK(ldg >= rank && lddy >= out && (db == nullptr || ldu >= rank),
           "lora_backward: rows of %lld, %lld, %lld elements do not fit into distances %lld, %lld, %lld",
           (long long)rank, (long long)out, (long long)rank, (long long)ldg, (long long)lddy, (long long)ldu);
  if (T == 0 || rank == 0 || out == 0) return NT_OK;
  NT_CHECK(g != nullptr && dy != nullptr && b != nullptr, "lora_backward: g, dy or B is null");
  NT_CHECK(db == nullptr || u != nullptr, "lora_backward: dB needs u");
  if (dtype == NT_BF16 && nt::can_lora_down<true>(g, ldg, dy, lddy, b, rank, T, out, rank)) {
    NT_CUDA(nt::lora_down<true>(context, g, ldg, dy, lddy, b, rank, scale, T, out, rank), "lora_backward");
  } else {
    const int32_t status = nt::matmul(context, {T, rank, out, nt::as_stored(dy, dtype, lddy),
                                                nt::as_stored(b, dtype, rank), g, dtype, ldg, nullptr, false, scale});
    if (status != NT_OK) return status;
  }
  if (db == nullptr) return NT_OK;
  return add_outer(context, dtype, db, false, dy, lddy, u, ldu, T, out, rank, "lora_backward");
}

NT_API int32_t nt_lora_backward_a(nt_context *context, int32_t dtype, float *da, const void *g, const void *x,
                                  int64_t ldx, int64_t T, int64_t R, int64_t in) {
  NT_CHECK_DTYPE("lora_backward_a", dtype);
  NT_CHECK(T >= 0 && R >= 0 && in >= 0, "lora_backward_a: sizes must not be negative, got T %lld, R %lld, in %lld",
           (long long)T, (long long)R, (long long)in);
  NT_CHECK(ldx >= in, "lora_backward_a: rows of %lld elements do not fit into distance %lld", (long long)in,
           (long long)ldx);
  if (T == 0 || R == 0 || in == 0) return NT_OK;
  NT_CHECK(da != nullptr && g != nullptr && x != nullptr, "lora_backward_a: dA, g or x is null");
  return add_outer(context, dtype, da, true, x, ldx, g, R, T, in, R, "lora_backward_a");
}
