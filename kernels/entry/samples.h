// Samples laid end to end, as the functions that draw random numbers for them get them: in host memory.
#pragma once
#include "entry.h"

namespace nt {

struct HostSamples {
  const int32_t *borders;  // [count + 1]
  const float *scales;     // [count]; null where nothing is scaled
  const int64_t *draws;    // [count]
  int64_t count;
};

// borders: 0 first, T last, never falling; draws have at most 48 bits.
inline int32_t check_samples(const char *op, const HostSamples &samples, int64_t T) {
  const auto &[borders, scales, draws, count] = samples;
  NT_CHECK(count > 0 && borders[0] == 0 && borders[count] == T,
           "%s: cu_seqlens must go from 0 to T = %lld, got %d … %d for %lld sequences", op, (long long)T,
           int(borders[0]), int(borders[count > 0 ? count : 0]), (long long)count);
  for (int64_t s = 0; s < count; s++) {
    NT_CHECK(borders[s] <= borders[s + 1], "%s: cu_seqlens must not fall, got %d after %d", op, int(borders[s + 1]),
             int(borders[s]));
    NT_CHECK(draws[s] >= 0 && draws[s] < (int64_t(1) << 48), "%s: draws must be in [0, 2^48), got %lld", op,
             (long long)draws[s]);
  }
  return NT_OK;
}

}  // namespace nt
