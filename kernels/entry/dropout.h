#pragma once
#include <math.h>

#include "arguments.h"
#include "dtype.h"
#include "samples.h"

NT_API int32_t nt_dropout(nt_context *context, int32_t dtype, void *y, int64_t ldy, const void *x, int64_t ldx,
                          int64_t T, int64_t columns, float p, uint64_t seed, int32_t module, int32_t accumulate,
                          const int32_t *cu_seqlens, const int64_t *draws, int64_t sequences) {
  NT_CHECK_DTYPE("dropout", dtype);
  NT_TRY(nt::check_rows("dropout", "columns", T, columns));
  NT_TRY(nt::check_count("dropout", "sequences", sequences));
  NT_CHECK(columns <= 4 << 16, "dropout: columns must be in [0, 262144], got %lld", (long long)columns);
  NT_TRY(nt::check_distance("dropout", "y", ldy, columns));
  NT_TRY(nt::check_distance("dropout", "x", ldx, columns));
  NT_CHECK(p >= 0.0f && p < 1.0f, "dropout: p must be in [0, 1), got %g", double(p));
  NT_CHECK(module >= 0 && module < 1 << 16, "dropout: module must be in [0, 65536), got %d", int(module));
  if (T == 0 || columns == 0) return NT_OK;
  NT_CHECK(y != nullptr && x != nullptr && cu_seqlens != nullptr && draws != nullptr,
           "dropout: y, x, cu_seqlens and draws must not be null");
  const nt::HostSamples samples = {cu_seqlens, nullptr, draws, sequences};
  NT_TRY(nt::check_samples("dropout", samples, T));
  const nt::DropoutMask mask = {seed, uint32_t(module), uint32_t(ceil(double(p) * 0x1p24)),
                                float(1.0 / (1.0 - double(p))), accumulate != 0};
  return nt::with_dtype(dtype, [&](auto element) {
    using E = decltype(element);
    return nt::dropout(context, nt::as<E>(y), ldy, nt::as<E>(x), ldx, T, columns, mask, samples);
  });
}
