// Sums over the lanes of several vectors at once.
#pragma once
#include "vec.h"

namespace nt {

// Lane i of the result is the sum of the lanes of x[i].
inline Vec sums_of(Vec (&x)[kLanes]) {
  Vec y[kLanes / 2];
#ifdef __AVX512F__
  auto add = [](__m512 a, __m512 b) { return (Vec)_mm512_add_ps(a, b); };
  for (int i = 0; i < 8; i++) {
    __m512 a = (__m512)x[2 * i], b = (__m512)x[2 * i + 1];
    y[i] = add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  }
  for (int i = 0; i < 4; i++) {
    __m512d a = (__m512d)y[2 * i], b = (__m512d)y[2 * i + 1];
    y[i] = add((__m512)_mm512_unpacklo_pd(a, b), (__m512)_mm512_unpackhi_pd(a, b));
  }
  for (int n = 2; n > 0; n /= 2)
    for (int i = 0; i < n; i++) {
      __m512 a = (__m512)y[2 * i], b = (__m512)y[2 * i + 1];
      y[i] = add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
    }
  return y[0];
#else
  for (int n = 4, step = 0; step < 2; n /= 2, step++)
    for (int i = 0; i < n; i++) {
      const Vec *from = step == 0 ? x : y;
      y[i] = (Vec)_mm256_hadd_ps((__m256)from[2 * i], (__m256)from[2 * i + 1]);
    }
  __m256 a = (__m256)y[0], b = (__m256)y[1];
  return (Vec)_mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
#endif
}

}  // namespace nt
