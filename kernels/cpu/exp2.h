// Powers of two, as exact as float32 or as what becomes bf16 needs, and the sigmoid for the latter.
#pragma once
#include "vec.h"

namespace nt {

constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.69314718055994531f;

// 2^x for x ≤ 8 or so, exactly 0 for −∞, NaN kept. Relative error 1e-7, or 3e-6 where the result becomes bf16 anyway.
// Minimax polynomials of 2^r over |r| ≤ 1/2.
template <bool Rough>
inline Vec exp2(Vec x) {
#ifdef __AVX512F__
  x = max(splat(-200.0f), x);
  Vec k = (Vec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  x = max(splat(-127.0f), x);
  Vec k = (Vec)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#endif
  Vec r = x - k, p;
  if constexpr (Rough) {
    p = fma(splat(0.009570102f), r, splat(0.055917859f));
    p = fma(p, r, splat(0.24024744f));
    p = fma(p, r, splat(0.69312179f));
    p = fma(p, r, splat(0.99999928f));
  } else {
    p = fma(splat(0.00015345812f), r, splat(0.0013399931f));
    p = fma(p, r, splat(0.009618489f));
    p = fma(p, r, splat(0.055503286f));
    p = fma(p, r, splat(0.24022646f));
    p = fma(p, r, splat(0.69314718f));
    p = fma(p, r, splat(1.0f));
  }
#ifdef __AVX512F__
  return (Vec)_mm512_scalef_ps((__m512)p, (__m512)k);
#else
  // For k = −127 the factor's bits are 0: the result is exactly 0.
  VecI exponent = __builtin_convertvector(k, VecI) + 127;
  return p * (Vec)(exponent << 23);
#endif
}

// 1 / (1 + e^−x), for what becomes a T: in float32, or for bf16 within 4e-6 of itself; below x = −87, where that is less
// than 2^−126, about 1e-38.
template <typename T>
inline Vec sigmoid_for(Vec x) {
  if constexpr (sizeof(T) == sizeof(float)) return sigmoid(x);
  // Beyond 2^126 a step of Newton's method would multiply infinity by 0.
  const Vec d = splat(1.0f) + exp2<true>(min(splat(126.0f), x * splat(-kLog2E)));
#ifdef __AVX512F__
  const Vec r = (Vec)_mm512_rcp14_ps((__m512)d);
  return r * fma(-d, r, splat(2.0f));
#else
  return splat(1.0f) / d;
#endif
}

}  // namespace nt
