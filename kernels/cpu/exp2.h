// Powers of two and the sigmoid, as exact as float32 or as what becomes bf16 needs.
#pragma once
#include "vec.h"

namespace nt {

constexpr float kLog2E = 1.44269504088896341f, kLog2ELow = 1.92596299e-8f, kLn2 = 0.69314718055994531f;

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

// 2^r for 0 ≤ r < 1, within 1e-7, or 3e-6 where the result becomes bf16 anyway, by minimax polynomials.
template <bool Rough>
inline Vec exp2_fraction(Vec r) {
  Vec p;
  if constexpr (Rough) {
    p = fma(splat(0.013534168f), r, splat(0.05201146f));
    p = fma(p, r, splat(0.24144276f));
    p = fma(p, r, splat(0.6930038f));
    return fma(p, r, splat(1.0000026f));
  }
  p = fma(splat(0.00021702256f), r, splat(0.0012439687f));
  p = fma(p, r, splat(0.009678841f));
  p = fma(p, r, splat(0.05548334f));
  p = fma(p, r, splat(0.24022983f));
  p = fma(p, r, splat(0.693147f));
  return fma(p, r, splat(1.0f));
}

// 1 / (1 + e^−x), for what becomes a T: within 4e-7 of itself, or for bf16 within 4e-6; below x = −87, where that is less
// than 2^−126, about 1e-38.
template <typename T>
inline Vec sigmoid_for(Vec x) {
  constexpr bool kRough = sizeof(T) < sizeof(float);
#ifdef __AVX512F__
  // A power beyond 2^126 would have Newton's method multiply infinity by 0, and infinity has no remainder.
  x = max(splat(-87.0f), x);
  if constexpr (!kRough) x = min(splat(200.0f), x);
  const Vec y = x * splat(-kLog2E);
  Vec r = (Vec)_mm512_reduce_ps((__m512)y, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // y − floor(y)
  // The remainder: what rounding the product, and log2 e before it, lost.
  if constexpr (!kRough) r += fma(x, splat(-kLog2ELow), fma(x, splat(-kLog2E), -y));
  const Vec power = (Vec)_mm512_scalef_ps((__m512)exp2_fraction<kRough>(r), (__m512)y);  // times 2^floor(y)
  const Vec d = splat(1.0f) + power, inverse = (Vec)_mm512_rcp14_ps((__m512)d);
  return inverse * fma(-d, inverse, splat(2.0f));
#else
  if constexpr (!kRough) return sigmoid(x);
  return splat(1.0f) / (splat(1.0f) + exp2<true>(min(splat(126.0f), x * splat(-kLog2E))));
#endif
}

}  // namespace nt
