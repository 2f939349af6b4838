#pragma once
#include "dtype.h"

NT_API int32_t nt_random(nt_context *context, int32_t dtype, void *destination, int64_t n, int32_t kind, float scale,
                         uint64_t seed, uint32_t draw, int32_t stream) {
  NT_CHECK_DTYPE("random", dtype);
  NT_TRY(nt::check_count("random", "n", n));
  NT_CHECK(kind == NT_RANDOM_UNIFORM || kind == NT_RANDOM_NORMAL, "random: unknown kind %d", int(kind));
  NT_CHECK(stream >= 0 && stream < 1 << 16, "random: stream must be in [0, 65536), got %d", int(stream));
  if (n == 0) return NT_OK;
  NT_CHECK(destination != nullptr, "random: destination must not be null");
  return nt::with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    return nt::random(context, nt::as<T>(destination), n, kind, scale, seed, draw, uint32_t(stream));
  });
}
