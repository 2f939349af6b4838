#pragma once
#include "dtype.h"

NT_API int32_t nt_rmsnorm_forward(nt_context *context, int32_t dtype, void *y, int64_t ldy, void *sum, float *rstd,
                                  const void *x, const void *delta, const float *weight, int64_t T, int64_t H,
                                  float eps) {
  NT_CHECK_DTYPE("rmsnorm_forward", dtype);
  NT_TRY(nt::check_rows("rmsnorm_forward", "H", T, H));
  NT_TRY(nt::check_distance("rmsnorm_forward", "y", ldy, H));
  if (T == 0 || H == 0) return NT_OK;
  NT_CHECK(y != nullptr && rstd != nullptr && x != nullptr && weight != nullptr,
           "rmsnorm_forward: y, rstd, x and weight must not be null");
  NT_CHECK(delta == nullptr || sum != nullptr, "rmsnorm_forward: with delta, sum must not be null");
  return nt::with_dtype(dtype, [&](auto element) {
    using E = decltype(element);
    return nt::rmsnorm_forward(context, nt::as<E>(y), ldy, nt::as<E>(sum), rstd, nt::as<E>(x), nt::as<E>(delta),
                               weight, T, H, eps);
  });
}

NT_API int32_t nt_rmsnorm_backward(nt_context *context, int32_t dtype, void *dx, int64_t lddx, float *dweight,
                                   const void *dy, const void *x, const float *weight, const float *rstd,
                                   const void *residual, int64_t T, int64_t H) {
  NT_CHECK_DTYPE("rmsnorm_backward", dtype);
  NT_TRY(nt::check_rows("rmsnorm_backward", "H", T, H));
  NT_TRY(nt::check_distance("rmsnorm_backward", "dx", lddx, H));
  if (T == 0 || H == 0) return NT_OK;
  NT_CHECK(dx != nullptr && dy != nullptr && x != nullptr && weight != nullptr && rstd != nullptr,
           "rmsnorm_backward: dx, dy, x, weight and rstd must not be null");
  return nt::with_dtype(dtype, [&](auto element) {
    using E = decltype(element);
    return nt::rmsnorm_backward(context, nt::as<E>(dx), lddx, dweight, nt::as<E>(dy), nt::as<E>(x), weight, rstd,
                                nt::as<E>(residual), T, H);
  });
}
