// Samples laid end to end, as the functions that draw random numbers for them get them.
#pragma once
#include "check.h"

namespace nt {

// borders: 0 first, T last, never falling; draws have at most 48 bits.
inline int32_t check_samples(const char *op, const int32_t *borders, const int64_t *draws, int64_t sequences,
                             int64_t T) {
  NT_CHECK(sequences > 0 && borders[0] == 0 && borders[sequences] == T,
           "%s: cu_seqlens must go from 0 to T = %lld, got %d … %d for %lld sequences", op, (long long)T,
           int(borders[0]), int(borders[sequences > 0 ? sequences : 0]), (long long)sequences);
  for (int64_t s = 0; s < sequences; s++) {
    NT_CHECK(borders[s] <= borders[s + 1], "%s: cu_seqlens must not fall, got %d after %d", op, int(borders[s + 1]),
             int(borders[s]));
    NT_CHECK(draws[s] >= 0 && draws[s] < (int64_t(1) << 48), "%s: draws must be in [0, 2^48), got %lld", op,
             (long long)draws[s]);
  }
  return NT_OK;
}

inline int32_t check_learned_scale(const float *dlearned_scale, const void *dy, int64_t T, int64_t H, int32_t noise,
                                   const int32_t *borders, const float *scales, const int64_t *draws,
                                   int64_t sequences) {
  const char *op = "learned_scale_backward";
  NT_CHECK(T >= 0 && H >= 0 && sequences >= 0, "%s: sizes must be ≥ 0, got T %lld, H %lld, sequences %lld", op,
           (long long)T, (long long)H, (long long)sequences);
  NT_CHECK(noise > NT_NOISE_NONE && noise <= NT_NOISE_GAUSSIAN, "%s: no such noise: %d", op, int(noise));
  if (T == 0 || H == 0) return NT_OK;
  NT_CHECK(dlearned_scale != nullptr && dy != nullptr && borders != nullptr && scales != nullptr && draws != nullptr,
           "%s: no pointer may be null", op);
  return check_samples(op, borders, draws, sequences, T);
}

}  // namespace nt
