// A square of vectors in registers.
#pragma once
#include "vec.h"

namespace nt {

// Transposes a square of kLanes rows held in registers.
inline void transpose(Vec (&x)[kLanes]) {
  Vec y[kLanes];
#ifdef __AVX512F__
  for (int i = 0; i < 16; i += 2) {
    y[i] = (Vec)_mm512_unpacklo_ps((__m512)x[i], (__m512)x[i + 1]);
    y[i + 1] = (Vec)_mm512_unpackhi_ps((__m512)x[i], (__m512)x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int k = 0; k < 2; k++) {
      x[i + 2 * k] = (Vec)_mm512_unpacklo_pd((__m512d)y[i + k], (__m512d)y[i + k + 2]);
      x[i + 2 * k + 1] = (Vec)_mm512_unpackhi_pd((__m512d)y[i + k], (__m512d)y[i + k + 2]);
    }
  for (int i = 0; i < 16; i += 8)
    for (int k = 0; k < 4; k++) {
      y[i + k] = (Vec)_mm512_shuffle_f32x4((__m512)x[i + k], (__m512)x[i + k + 4], 0x88);
      y[i + k + 4] = (Vec)_mm512_shuffle_f32x4((__m512)x[i + k], (__m512)x[i + k + 4], 0xDD);
    }
  for (int k = 0; k < 8; k++) {
    x[k] = (Vec)_mm512_shuffle_f32x4((__m512)y[k], (__m512)y[k + 8], 0x88);
    x[k + 8] = (Vec)_mm512_shuffle_f32x4((__m512)y[k], (__m512)y[k + 8], 0xDD);
  }
#else
  for (int i = 0; i < 8; i += 2) {
    y[i] = (Vec)_mm256_unpacklo_ps((__m256)x[i], (__m256)x[i + 1]);
    y[i + 1] = (Vec)_mm256_unpackhi_ps((__m256)x[i], (__m256)x[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int k = 0; k < 2; k++) {
      x[i + 2 * k] = (Vec)_mm256_unpacklo_pd((__m256d)y[i + k], (__m256d)y[i + k + 2]);
      x[i + 2 * k + 1] = (Vec)_mm256_unpackhi_pd((__m256d)y[i + k], (__m256d)y[i + k + 2]);
    }
  for (int k = 0; k < 4; k++) {
    y[k] = (Vec)_mm256_permute2f128_ps((__m256)x[k], (__m256)x[k + 4], 0x20);
    y[k + 4] = (Vec)_mm256_permute2f128_ps((__m256)x[k], (__m256)x[k + 4], 0x31);
  }
  for (int k = 0; k < 8; k++) x[k] = y[k];
#endif
}

}  // namespace nt
