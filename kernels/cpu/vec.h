// One float vector type for every instruction set: 16 lanes with AVX-512, 8 with AVX2, written with the compiler's
// vector extensions; only conversions and lane tricks need intrinsics. bf16 is loaded and stored through it, so that
// a kernel is a template on its element type (float or bf16).
#pragma once
#include <immintrin.h>
#include <stdint.h>

#include "../bf16.h"

namespace nt {

struct bf16 {
  nt_bf16 bits;
};
// float16 appears only in files and in what NF4 weights were; a signalling NaN comes out quiet.
struct f16 {
  uint16_t bits;
};

#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecU __attribute__((vector_size(kLanes * 4)));

// A broadcast, where Vec{} + x would be an addition for every value read from memory, and lose the sign of −0.
inline Vec splat(float x) {
#ifdef __AVX512F__
  return (Vec)_mm512_set1_ps(x);
#else
  return (Vec)_mm256_set1_ps(x);
#endif
}
inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return nt_bf16_to_float(x.bits); }
inline void set(float &y, float x) { y = x; }
inline void set(bf16 &y, float x) { y.bits = nt_float_to_bf16(x); }

inline Vec load(const float *p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float *p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }

inline Vec load(const bf16 *p) {
#ifdef __AVX512F__
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#else
  return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
#endif
}

inline Vec load(const f16 *p) {
#ifdef __AVX512F__
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#else
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#endif
}

// Rounds to nearest even, into the upper half of each lane, and leaves a rest in the lower half; NaN stays NaN.
inline VecU upper_bf16(Vec v) {
  const VecU bits = (VecU)v, odd = (bits >> 16) & 1u;
#ifdef __AVX512F__
  const __m512i rounded = (__m512i)(bits + 0x7FFFu + odd);
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
  return (VecU)_mm512_mask_or_epi32(rounded, nan, (__m512i)bits, _mm512_set1_epi32(0x400000));
#else
  const VecU nan = (VecU)(v != v);
  return (bits | (nan & 0x400000u)) + (~nan & (0x7FFFu + odd));
#endif
}

inline void store(bf16 *p, Vec v) {
  const VecU words = upper_bf16(v) >> 16;
#ifdef __AVX512F__
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16((__m512i)words));
#else
  __m128i low = _mm256_castsi256_si128((__m256i)words), high = _mm256_extracti128_si256((__m256i)words, 1);
  _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(low, high));
#endif
}

// As store, but by the instruction where there is one: it takes subnormals for 0.
inline void store_rounded(float *p, Vec v) { store(p, v); }
inline void store_rounded(bf16 *p, Vec v) {
#ifdef __AVX512BF16__
  _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
  store(p, v);
#endif
}

// Two vectors, one behind the other: half the instructions where they become bf16.
inline void store_rounded(float *p, Vec a, Vec b) {
  store(p, a);
  store(p + kLanes, b);
}
inline void store_rounded(bf16 *p, Vec a, Vec b) {
#if defined(__AVX512BF16__)
  _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
#elif defined(__AVX512F__)
  const __m512i odd_words = _mm512_set_epi32(
      0x003F003D, 0x003B0039, 0x00370035, 0x00330031, 0x002F002D, 0x002B0029, 0x00270025, 0x00230021, 0x001F001D,
      0x001B0019, 0x00170015, 0x00130011, 0x000F000D, 0x000B0009, 0x00070005, 0x00030001);
  _mm512_storeu_si512(p, _mm512_permutex2var_epi16((__m512i)upper_bf16(a), odd_words, (__m512i)upper_bf16(b)));
#else
  const __m256i words = _mm256_packus_epi32((__m256i)(upper_bf16(a) >> 16), (__m256i)(upper_bf16(b) >> 16));
  _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(words, 0xD8));
#endif
}

// The first n < kLanes elements; the other lanes are 0.
template <typename T>
inline Vec load_part(const T *p, int64_t n) {
  float buffer[kLanes] = {};
  for (int64_t i = 0; i < n; i++) buffer[i] = to_float(p[i]);
  return load(buffer);
}
template <typename T>
inline void store_part(T *p, Vec v, int64_t n) {
  float buffer[kLanes];
  store(buffer, v);
  for (int64_t i = 0; i < n; i++) set(p[i], buffer[i]);
}

// a·b + c, rounded once.
inline Vec fma(Vec a, Vec b, Vec c) {
#ifdef __AVX512F__
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#endif
}

inline Vec max(Vec a, Vec b) {
#ifdef __AVX512F__
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#endif
}
inline Vec min(Vec a, Vec b) {
#ifdef __AVX512F__
  return (Vec)_mm512_min_ps((__m512)a, (__m512)b);
#else
  return (Vec)_mm256_min_ps((__m256)a, (__m256)b);
#endif
}

inline Vec square_root(Vec x) {
#ifdef __AVX512F__
  return (Vec)_mm512_sqrt_ps((__m512)x);
#else
  return (Vec)_mm256_sqrt_ps((__m256)x);
#endif
}

// table[i] of each lane. Of bytes, three more behind those that are asked for must be readable.
inline Vec lookup(const float *table, VecI i) {
#ifdef __AVX512F__
  return (Vec)_mm512_i32gather_ps((__m512i)i, table, 4);
#else
  return (Vec)_mm256_i32gather_ps(table, (__m256i)i, 4);
#endif
}
inline VecI lookup(const uint8_t *table, VecI i) {
#ifdef __AVX512F__
  return (VecI)_mm512_i32gather_epi32((__m512i)i, table, 1) & 0xFF;
#else
  return (VecI)_mm256_i32gather_epi32((const int *)table, (__m256i)i, 1) & 0xFF;
#endif
}

// kLanes bytes, from 0 to 255.
inline VecI load_bytes(const uint8_t *p) {
#ifdef __AVX512F__
  return (VecI)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
#else
  return (VecI)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
#endif
}
inline void store_bytes(uint8_t *p, VecI x) {
#ifdef __AVX512F__
  _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)x));
#else
  __m128i low = _mm256_castsi256_si128((__m256i)x), high = _mm256_extracti128_si256((__m256i)x, 1);
  __m128i words = _mm_packus_epi32(low, high);
  _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
#endif
}

inline Vec select(VecI mask, Vec a, Vec b) { return (Vec)(((VecI)a & mask) | ((VecI)b & ~mask)); }

inline float sum(Vec v) {
  float buffer[kLanes];
  store(buffer, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) buffer[i] += buffer[i + width];
  return buffer[0];
}
inline float max_of(Vec v) {
  float buffer[kLanes];
  store(buffer, v);
  float result = buffer[0];
  for (int i = 1; i < kLanes; i++) result = buffer[i] > result ? buffer[i] : result;
  return result;
}

// e^x within 2 ulp: x = k·ln 2 + r, |r| ≤ ln 2 / 2, Taylor's polynomial of degree 7 in r,
// scaled by 2^k in two steps so that results down to the subnormals are right. −inf gives 0, NaN stays NaN.
inline Vec exp(Vec x) {
  Vec clamped = min(max(x, splat(-104.0f)), splat(88.8f));
  Vec k = clamped * splat(1.44269504088896341f);
#ifdef __AVX512F__
  k = (Vec)_mm512_roundscale_ps((__m512)k, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  k = (Vec)_mm256_round_ps((__m256)k, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#endif
  Vec r = fma(k, splat(-0.693359375f), clamped);
  r = fma(k, splat(2.12194440e-4f), r);
  Vec p = splat(1.0f / 5040.0f);
  p = fma(p, r, splat(1.0f / 720.0f));
  p = fma(p, r, splat(1.0f / 120.0f));
  p = fma(p, r, splat(1.0f / 24.0f));
  p = fma(p, r, splat(1.0f / 6.0f));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  VecI n = __builtin_convertvector(k, VecI);
  VecI half = n >> 1;
  Vec first = (Vec)((half + 127) << 23), second = (Vec)((n - half + 127) << 23);
  Vec y = p * first * second;
  return select(x != x, x, y);
}

inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }

}  // namespace nt
