#pragma once
#include "dtype.h"
#include "samples.h"

NT_API int32_t nt_learned_scale_backward(nt_context *context, int32_t dtype, float *dlearned_scale, const void *dy,
                                         int64_t lddy, int64_t T, int64_t H, int32_t noise, uint64_t seed,
                                         const int32_t *cu_seqlens, const float *scales, const int64_t *draws,
                                         int64_t sequences) {
  const char *op = "learned_scale_backward";
  NT_CHECK_DTYPE("learned_scale_backward", dtype);
  NT_TRY(nt::check_rows(op, "H", T, H));
  NT_TRY(nt::check_distance(op, "dy", lddy, H));
  NT_TRY(nt::check_count(op, "sequences", sequences));
  NT_CHECK(noise > NT_NOISE_NONE && noise <= NT_NOISE_GAUSSIAN, "%s: unknown noise %d", op, int(noise));
  if (T == 0 || H == 0) return NT_OK;
  NT_CHECK(dlearned_scale != nullptr && dy != nullptr && cu_seqlens != nullptr && scales != nullptr && draws != nullptr,
           "%s: no pointer may be null", op);
  const nt::HostSamples samples = {cu_seqlens, scales, draws, sequences};
  NT_TRY(nt::check_samples(op, samples, T));
  return nt::with_dtype(dtype, [&](auto element) {
    return nt::learned_scale_backward(context, dlearned_scale, nt::as<decltype(element)>(dy), lddy, T, H, noise, seed,
                                      samples);
  });
}
