#pragma once
#include "entry.h"

namespace nt {

// Of the products over the stacked A [R, in] with x's rows `ldx` apart.
inline int32_t check_stacked(const char *op, int32_t dtype, int64_t ldx, int64_t T, int64_t R, int64_t in) {
  NT_CHECK(dtype == NT_F32 || dtype == NT_BF16, "%s: dtype must be f32 or bf16, got %d", op, int(dtype));
  NT_CHECK(T >= 0 && R >= 0 && in >= 0, "%s: sizes must be ≥ 0, got T %lld, R %lld, in %lld", op, (long long)T,
           (long long)R, (long long)in);
  NT_CHECK(ldx >= in, "%s: rows of %lld elements do not fit into distance %lld", op, (long long)in, (long long)ldx);
  return NT_OK;
}

}  // namespace nt

NT_API int32_t nt_lora_forward(nt_context *context, int32_t dtype, void *u, const void *x, int64_t ldx,
                               const void *a, float scale, int64_t T, int64_t R, int64_t in) {
  NT_TRY(nt::check_stacked("lora_forward", dtype, ldx, T, R, in));
  if (T == 0 || R == 0 || in == 0) return NT_OK;
  NT_CHECK(u != nullptr && x != nullptr && a != nullptr, "lora_forward: u, x and A must not be null");
  return nt::lora_forward(context, dtype, u, x, ldx, a, scale, T, R, in);
}

NT_API int32_t nt_lora_backward(nt_context *context, int32_t dtype, void *g, int64_t ldg, float *db, const void *dy,
                                int64_t lddy, const void *u, int64_t ldu, const void *b, float scale, int64_t T,
                                int64_t out, int64_t rank) {
  NT_CHECK_DTYPE("lora_backward", dtype);
  NT_CHECK(T >= 0 && rank >= 0 && out >= 0, "lora_backward: sizes must be ≥ 0, got T %lld, out %lld, rank %lld",
           (long long)T, (long long)out, (long long)rank);
  NT_CHECK(ldg >= rank && lddy >= out && (db == nullptr || ldu >= rank),
           "lora_backward: rows of %lld, %lld, %lld elements do not fit into distances %lld, %lld, %lld",
           (long long)rank, (long long)out, (long long)rank, (long long)ldg, (long long)lddy, (long long)ldu);
  if (T == 0 || rank == 0 || out == 0) return NT_OK;
  NT_CHECK(g != nullptr && dy != nullptr && b != nullptr, "lora_backward: g, dy and B must not be null");
  NT_CHECK(db == nullptr || u != nullptr, "lora_backward: dB needs u");
  return nt::lora_backward(context, dtype, g, ldg, db, dy, lddy, u, ldu, b, scale, T, out, rank);
}

NT_API int32_t nt_lora_backward_a(nt_context *context, int32_t dtype, float *da, const void *g, const void *x,
                                  int64_t ldx, int64_t T, int64_t R, int64_t in) {
  NT_TRY(nt::check_stacked("lora_backward_a", dtype, ldx, T, R, in));
  if (T == 0 || R == 0 || in == 0) return NT_OK;
  NT_CHECK(da != nullptr && g != nullptr && x != nullptr, "lora_backward_a: dA, g and x must not be null");
  return nt::lora_backward_a(context, dtype, da, g, x, ldx, T, R, in);
}
