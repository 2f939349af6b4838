// Philox and its distributions (../philox.h) many blocks at a time. A group is kBlocks consecutive blocks, that is
// kGroup consecutive words. Each block sits in a 64-bit lane, so that one even-lane multiplication gives both halves
// of a product where the next round needs them.
#pragma once
#include "../neftune.h"
#include "../philox.h"
#include "vec.h"

namespace nt {

constexpr int kBlocks = kLanes / 2;
constexpr int kGroup = 4 * kBlocks;  // 2 · kLanes words

typedef uint64_t VecL __attribute__((vector_size(kLanes * 4)));

// Words 0 … kGroup − 1 of a group, in order.
struct Group {
  Vec low, high;
};

// The four words of each block, in the low halves of the lanes; the high halves hold anything.
struct Blocks {
  VecL x[4];
};

// The low halves' products, 64 bits wide.
inline VecL multiply(VecL a, uint32_t constant) {
#ifdef __AVX512F__
  return (VecL)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(int64_t(constant)));
#else
  return (VecL)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(int64_t(constant)));
#endif
}

// The round keys, in memory so that the rounds read them as broadcast operands.
struct PhiloxKey {
  uint64_t rounds[10][2];

  explicit PhiloxKey(uint64_t key) {
    uint32_t low = uint32_t(key), high = uint32_t(key >> 32);
    for (auto &round : rounds) {
      round[0] = low;
      round[1] = high;
      low += 0x9E3779B9u;
      high += 0xBB67AE85u;
    }
  }
};

// Blocks of counters (c0 + b, c1, c2, c3), b < kBlocks, ordered so that interleaving 32-bit words pairwise within
// 128-bit lanes (unpack) gives the words in order: even lanes hold the first half of the group, odd lanes the second.
inline Blocks philox_blocks(const PhiloxKey &key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
#ifdef __AVX512F__
  constexpr VecL order = {0, 4, 1, 5, 2, 6, 3, 7};
#else
  constexpr VecL order = {0, 2, 1, 3};
#endif
  VecL x0 = order + c0, x1 = VecL{} + c1, x2 = VecL{} + c2, x3 = VecL{} + c3;
#pragma clang loop unroll(full)
  for (int round = 0; round < 10; round++) {
    VecL p0 = multiply(x0, 0xD2511F53u), p1 = multiply(x2, 0xCD9E8D57u);
    x0 = (p1 >> 32) ^ x1 ^ key.rounds[round][0];
    x1 = p1;
    x2 = (p0 >> 32) ^ x3 ^ key.rounds[round][1];
    x3 = p0;
  }
  return {{x0, x1, x2, x3}};
}

// Lane by lane: the low half of a below the low half of b.
inline VecU pair(VecL a, VecL b) {
#ifdef __AVX512F__
  return (VecU)_mm512_mask_moveldup_ps((__m512)a, 0xAAAA, (__m512)b);
#else
  return (VecU)_mm256_blend_ps((__m256)a, _mm256_moveldup_ps((__m256)b), 0xAA);
#endif
}

// The words a0 b0 a1 b1 of a block (a = words 0 and 2, b = words 1 and 3), in order over the group.
template <typename V>
inline void interleave(V a, V b, V &low, V &high) {
#ifdef __AVX512F__
  low = (V)_mm512_unpacklo_ps((__m512)a, (__m512)b);
  high = (V)_mm512_unpackhi_ps((__m512)a, (__m512)b);
#else
  low = (V)_mm256_unpacklo_ps((__m256)a, (__m256)b);
  high = (V)_mm256_unpackhi_ps((__m256)a, (__m256)b);
#endif
}

inline Vec uniform_of(VecU words) {
  return (__builtin_convertvector((VecI)words >> 8, Vec) + splat(0.5f)) * splat(0x1p-23f);
}

inline Vec bernoulli_of(VecU words) { return (Vec)((words & 0x80000000u) | 0x3F800000u); }

// ln x of normal x > 0, within 2 ulp: x = m · 2^e, m in [√½, √2); with s = (m − 1)/(m + 1),
// ln m = 2 artanh s = 2s + s³ · (2/3 + 2/5 s² + …).
inline Vec log(Vec x) {
  VecI bits = (VecI)x;
  VecI e = (bits - 0x3F3504F3) >> 23;  // 0x3F3504F3 = √½
  Vec m = (Vec)(bits - (e << 23)), exponent = __builtin_convertvector(e, Vec);
  Vec f = m - splat(1.0f);
  Vec s = f / (splat(2.0f) + f), z = s * s;
  Vec p = splat(2.0f / 9.0f);
  p = fma(p, z, splat(2.0f / 7.0f));
  p = fma(p, z, splat(2.0f / 5.0f));
  p = fma(p, z, splat(2.0f / 3.0f));
  // 2s = f − s·f exactly, which keeps the digits that rounding s would lose.
  Vec tail = fma(exponent, splat(1.42860677e-6f), s * fma(p, z, -f));
  return fma(exponent, splat(0.693145752f), tail + f);
}

// sin and cos of 2πv, 0 ≤ v < 1 a multiple of 2⁻²⁴: the turn is reduced to ±1/8 without error.
inline void sincos_turn(Vec v, Vec &sine, Vec &cosine) {
  Vec quarters = v * splat(4.0f);
  VecI q = __builtin_convertvector(quarters + splat(0.5f), VecI);
  Vec x = (quarters - __builtin_convertvector(q, Vec)) * splat(1.57079632679489662f);
  Vec z = x * x;
  Vec s = splat(2.7557319e-6f);
  s = fma(s, z, splat(-1.9841270e-4f));
  s = fma(s, z, splat(8.3333333e-3f));
  s = fma(s, z, splat(-1.6666667e-1f));
  s = fma(s * z, x, x);
  Vec c = splat(2.4801587e-5f);
  c = fma(c, z, splat(-1.3888889e-3f));
  c = fma(c, z, splat(4.1666667e-2f));
  c = fma(c, z, splat(-0.5f));
  c = fma(c, z, splat(1.0f));
  VecI swap = -(q & 1);
  VecI sign_s = (q & 2) << 30, sign_c = ((q + 1) & 2) << 30;
  sine = (Vec)((VecI)select(swap, c, s) ^ sign_s);
  cosine = (Vec)((VecI)select(swap, s, c) ^ sign_c);
}

// The words themselves, as the bits of the vectors.
struct RawWords {
  Group operator()(const Blocks &blocks) const {
    Group group;
    interleave((Vec)pair(blocks.x[0], blocks.x[2]), (Vec)pair(blocks.x[1], blocks.x[3]), group.low, group.high);
    return group;
  }
};
struct Uniform {
  Group operator()(const Blocks &blocks) const {
    Group words = RawWords()(blocks);
    return {uniform_of((VecU)words.low), uniform_of((VecU)words.high)};
  }
};
struct Bernoulli {
  Group operator()(const Blocks &blocks) const {
    Group words = RawWords()(blocks);
    return {bernoulli_of((VecU)words.low), bernoulli_of((VecU)words.high)};
  }
};
// Box–Muller: words 0 and 2 give the radii, 1 and 3 the angles.
struct Gaussian {
  Group operator()(const Blocks &blocks) const {
    VecU a = pair(blocks.x[0], blocks.x[2]), b = pair(blocks.x[1], blocks.x[3]);
    Vec u = __builtin_convertvector((VecI)(a >> 8) + 1, Vec) * splat(0x1p-24f);
    Vec v = __builtin_convertvector((VecI)(b >> 8), Vec) * splat(0x1p-24f);
    Vec r = square_root(splat(-2.0f) * log(u)), sine, cosine;
    sincos_turn(v, sine, cosine);
    Group group;
    interleave(r * cosine, r * sine, group.low, group.high);
    return group;
  }
};

// body(Uniform(), …) by an nt_noise other than NT_NOISE_NONE.
template <typename Body>
inline void with_noise(int32_t noise, const Body &body) {
  if (noise == NT_NOISE_UNIFORM)
    body(Uniform());
  else if (noise == NT_NOISE_BERNOULLI)
    body(Bernoulli());
  else
    body(Gaussian());
}

// NEFTune's blocks for one token: columns j … j + kGroup − 1.
struct NoiseCounter {
  uint32_t position, c2, c3;

  NoiseCounter(uint32_t position, int64_t draw)
      : position(position), c2(uint32_t(draw)), c3(uint32_t(draw >> 32) | uint32_t(NT_STREAM_NOISE) << 16) {}

  Blocks blocks(const PhiloxKey &key, int64_t j) const {
    return philox_blocks(key, uint32_t(j >> 2), position, c2, c3);
  }
};

}  // namespace nt
