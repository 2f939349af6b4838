#pragma once
#include "dtype.h"
#include "samples.h"

namespace nt {

// Where the host cannot read ids, a kernel leaves rows with ids outside the table NaN (forward) or out (backward).
inline int32_t check_ids(const char *op, const int32_t *ids, int64_t T, int64_t V) {
  if constexpr (kHostIsDevice)
    for (int64_t t = 0; t < T; t++)
      NT_CHECK(ids[t] >= 0 && ids[t] < V, "%s: ids must be in [0, %lld), got %d at token %lld", op, (long long)V,
               int(ids[t]), (long long)t);
  return NT_OK;
}

}  // namespace nt

NT_API int32_t nt_embedding_forward(nt_context *context, int32_t dtype, void *y, const void *table,
                                    int32_t table_dtype, const int32_t *ids, int64_t T, int64_t H, int64_t V,
                                    int32_t noise, uint64_t seed, const int32_t *cu_seqlens, const float *scales,
                                    const int64_t *draws, int64_t sequences, const float *learned_scale) {
  const char *op = "embedding_forward";
  NT_CHECK_DTYPE("embedding_forward", dtype);
  NT_CHECK_DTYPE("embedding_forward: table", table_dtype);
  NT_TRY(nt::check_rows(op, "H", T, H));
  NT_TRY(nt::check_count(op, "V", V));
  NT_TRY(nt::check_count(op, "sequences", sequences));
  NT_CHECK(noise >= NT_NOISE_NONE && noise <= NT_NOISE_GAUSSIAN, "%s: unknown noise %d", op, int(noise));
  if (T == 0 || H == 0) return NT_OK;
  NT_CHECK(y != nullptr && table != nullptr && ids != nullptr, "%s: y, table and ids must not be null", op);
  const nt::HostSamples samples = {cu_seqlens, scales, draws, sequences};
  if (noise != NT_NOISE_NONE) {
    NT_CHECK(cu_seqlens != nullptr && scales != nullptr && draws != nullptr,
             "%s: noise needs cu_seqlens, scales and draws", op);
    NT_TRY(nt::check_samples(op, samples, T));
  }
  NT_TRY(nt::check_ids(op, ids, T, V));
  return nt::with_dtype(dtype, [&](auto out) {
    return nt::with_dtype(table_dtype, [&](auto in) {
      return nt::embedding_forward(context, nt::as<decltype(out)>(y), nt::as<decltype(in)>(table), ids, T, H, V, noise,
                                   seed, samples, learned_scale);
    });
  });
}

NT_API int32_t nt_embedding_backward(nt_context *context, int32_t dtype, float *dtable, const void *dy,
                                     const int32_t *ids, int64_t T, int64_t H, int64_t V) {
  const char *op = "embedding_backward";
  NT_CHECK_DTYPE("embedding_backward", dtype);
  NT_TRY(nt::check_rows(op, "H", T, H));
  NT_TRY(nt::check_count(op, "V", V));
  if (T == 0 || H == 0) return NT_OK;
  NT_CHECK(dtable != nullptr && dy != nullptr && ids != nullptr, "%s: dtable, dy and ids must not be null", op);
  NT_TRY(nt::check_ids(op, ids, T, V));
  return nt::with_dtype(dtype, [&](auto element) {
    return nt::embedding_backward(context, dtable, nt::as<decltype(element)>(dy), ids, T, H, V);
  });
}
