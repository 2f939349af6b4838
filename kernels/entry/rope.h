#pragma once
#include "dtype.h"
#include "rope_checks.h"

NT_API int32_t nt_rope(nt_context *context, int32_t dtype, void *x, int64_t ldx, const float *cosine,
                       const float *sine, const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim,
                       int32_t inverse) {
  NT_CHECK_DTYPE("rope", dtype);
  NT_TRY(nt::check_rope("rope", x, ldx, cosine, sine, positions, T, heads, head_dim));
  if (T == 0 || heads == 0 || head_dim == 0) return NT_OK;
  NT_TRY(nt::check_positions("rope", positions, T));
  const float sign = inverse != 0 ? -1.0f : 1.0f;
  return nt::with_dtype(dtype, [&](auto element) {
    return nt::rope(context, nt::as<decltype(element)>(x), ldx, cosine, sine, positions, T, heads, head_dim, sign);
  });
}
