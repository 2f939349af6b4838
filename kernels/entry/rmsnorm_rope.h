#pragma once
#include "arguments.h"
#include "dtype.h"
#include "rope_checks.h"

namespace nt {

// For both directions; `x` with distance ldx is what is worked on in place, `other` the input that is kept (forward:
// may be null) or read (backward).
inline int32_t check_rmsnorm_rope(const char *op, const void *x, int64_t ldx, const void *other, int64_t ldother,
                                  const float *weight, const float *cosine, const float *sine,
                                  const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim) {
  NT_TRY(check_rope(op, x, ldx, cosine, sine, positions, T, heads, head_dim));
  NT_CHECK(head_dim <= kMostNormedHeadDim, "%s: head_dim must be at most 256, got %lld", op, (long long)head_dim);
  NT_CHECK(T * heads <= INT32_MAX, "%s: T · heads must be below 2^31, got %lld and %lld", op, (long long)T,
           (long long)heads);
  NT_CHECK(T == 0 || heads == 0 || head_dim == 0 || weight != nullptr, "%s: weight must not be null", op);
  NT_CHECK(other == nullptr || ldother >= heads * head_dim,
           "%s: the input's row distance must be at least heads · head_dim = %lld, got %lld", op,
           (long long)(heads * head_dim), (long long)ldother);
  return NT_OK;
}

}  // namespace nt

NT_API int32_t nt_rmsnorm_rope_forward(nt_context *context, int32_t dtype, void *x, int64_t ldx, void *kept,
                                       int64_t ldkept, const float *weight, const float *cosine, const float *sine,
                                       const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim,
                                       float eps) {
  const char *op = "rmsnorm_rope_forward";
  NT_CHECK_DTYPE("rmsnorm_rope_forward", dtype);
  NT_TRY(nt::check_rmsnorm_rope(op, x, ldx, kept, ldkept, weight, cosine, sine, positions, T, heads, head_dim));
  if (T == 0 || heads == 0 || head_dim == 0) return NT_OK;
  NT_TRY(nt::check_positions(op, positions, T));
  return nt::with_dtype(dtype, [&](auto element) {
    using E = decltype(element);
    return nt::rmsnorm_rope_forward(context, nt::as<E>(x), ldx, nt::as<E>(kept), ldkept, weight, cosine, sine,
                                    positions, T, heads, head_dim, eps);
  });
}

NT_API int32_t nt_rmsnorm_rope_backward(nt_context *context, int32_t dtype, void *dx, int64_t lddx, float *dweight,
                                        const void *x, int64_t ldx, const float *weight, const float *cosine,
                                        const float *sine, const int32_t *positions, int64_t T, int64_t heads,
                                        int64_t head_dim, float eps) {
  const char *op = "rmsnorm_rope_backward";
  NT_CHECK_DTYPE("rmsnorm_rope_backward", dtype);
  NT_TRY(nt::check_rmsnorm_rope(op, dx, lddx, x, ldx, weight, cosine, sine, positions, T, heads, head_dim));
  if (T == 0 || heads == 0 || head_dim == 0) return NT_OK;
  NT_CHECK(x != nullptr, "%s: x must not be null", op);
  NT_TRY(nt::check_positions(op, positions, T));
  return nt::with_dtype(dtype, [&](auto element) {
    using E = decltype(element);
    return nt::rmsnorm_rope_backward(context, nt::as<E>(dx), lddx, dweight, nt::as<E>(x), ldx, weight, cosine, sine,
                                     positions, T, heads, head_dim, eps);
  });
}
