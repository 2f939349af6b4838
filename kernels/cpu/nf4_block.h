// A block of NF4 on the CPU: its sixteen values in registers, rounded once a block, and the look-up of them by codes.
#pragma once
#include "../neftune.h"
#include "../nf4.h"
#include "vec.h"

namespace nt {

constexpr int64_t kBlock = NT_NF4_BLOCK, kNested = NT_NF4_NESTED_BLOCK;

alignas(64) inline const float kCodebook[16] = {NT_NF4_CODEBOOK};
inline const float kDynamicMap[256] = {NT_DYNAMIC_MAP};

// The blocks' absmax, of n values in all.
struct Absmax {
  const float *plain;  // null: double quantization
  const uint8_t *codes;
  const float *second;
  float offset;

  Absmax(const nt_nf4 &nf4, int64_t n) : plain(nullptr), codes(nullptr), second(nf4.absmax2), offset(0) {
    if (second == nullptr) {
      plain = static_cast<const float *>(nf4.absmax);
    } else {
      codes = static_cast<const uint8_t *>(nf4.absmax);
      offset = second[((n + kBlock - 1) / kBlock + kNested - 1) / kNested];
    }
  }
  float at(int64_t block) const {
    return plain != nullptr ? plain[block]
                            : nt_nf4_absmax(kDynamicMap[codes[block]], second[block / kNested], offset);
  }
};

// v rounded to a dtype, still as float32.
inline Vec rounded(Vec v, int32_t dtype) {
  if (dtype == NT_F32) return v;
#ifdef __AVX512F__
  if (dtype == NT_F16) return (Vec)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#else
  if (dtype == NT_F16) return (Vec)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#endif
  const VecU bits = (VecU)v, up = bits + 0x7FFFu + (bits >> 16 & 1u);
  return (Vec)((VecU)select(v != v, (Vec)(bits | 0x400000u), (Vec)up) & 0xFFFF0000u);
}

// The sixteen values of a block: codebook · absmax, rounded to what was quantized, then to what is wanted.
struct Values {
  Vec at[16 / kLanes];
};
inline Values values_of(float absmax, int32_t stored, int32_t wanted) {
  Values values;
  for (int i = 0; i < 16 / kLanes; i++) {
    values.at[i] = rounded(load(kCodebook + i * kLanes) * splat(absmax), stored);
    if (wanted != stored) values.at[i] = rounded(values.at[i], wanted);
  }
  return values;
}

// kLanes of the values, in the order of their codes: kLanes / 2 bytes, the first code of each in the high half.
inline Vec look_up(const Values &values, const uint8_t *codes) {
#ifdef __AVX512F__
  const __m512i bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)codes));
  const __m512i first = _mm512_srli_epi64(bytes, 4), second = _mm512_slli_epi64(bytes, 32);
  // The instruction reads four bits of each index.
  return (Vec)_mm512_permutexvar_ps(_mm512_or_si512(first, second), (__m512)values.at[0]);
#else
  int32_t word;
  __builtin_memcpy(&word, codes, 4);
  const __m256i bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(word));
  const __m256i index = _mm256_or_si256(_mm256_srli_epi64(bytes, 4), _mm256_slli_epi64(bytes, 32));
  const __m256 low = _mm256_permutevar8x32_ps((__m256)values.at[0], index);
  const __m256 high = _mm256_permutevar8x32_ps((__m256)values.at[1], index);
  return (Vec)_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));  // by the fourth bit
#endif
}

// The sixteen values as 16-bit numbers, and 32 look-ups among them.
#ifdef __AVX512F__
struct Values16 {
  __m512i at;
};
inline Values16 narrow(const Values &values, int32_t dtype) {
  const __m512 v = (__m512)values.at[0];
  return {_mm512_castsi256_si512(dtype == NT_F16 ? _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)
                                                 : _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)v, 16)))};
}
inline __m512i look_up_32(const Values16 &values, const uint8_t *codes) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
  // The instruction reads five bits of each index.
  const __m512i first = _mm512_srli_epi32(bytes, 4), second = _mm512_slli_epi32(bytes, 16);
  const __m512i index = _mm512_and_si512(_mm512_or_si512(first, second), _mm512_set1_epi16(15));
  return _mm512_permutexvar_epi16(index, values.at);
}
inline void look_up_32(uint16_t *to, const Values16 &values, const uint8_t *codes) {
  _mm512_storeu_si512(to, look_up_32(values, codes));
}
#else
struct Values16 {
  __m256i low, high;  // their bytes, twice
};
inline Values16 narrow(const Values &values, int32_t dtype) {
  const __m256 a = (__m256)values.at[0], b = (__m256)values.at[1];
  __m128i first, second;
  if (dtype == NT_F16) {
    first = _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT), second = _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT);
  } else {
    const __m256i both = _mm256_permute4x64_epi64(
        _mm256_packus_epi32(_mm256_srli_epi32((__m256i)a, 16), _mm256_srli_epi32((__m256i)b, 16)), 0xD8);
    first = _mm256_castsi256_si128(both), second = _mm256_extracti128_si256(both, 1);
  }
  const __m128i byte = _mm_set1_epi16(255);
  return {_mm256_broadcastsi128_si256(_mm_packus_epi16(_mm_and_si128(first, byte), _mm_and_si128(second, byte))),
          _mm256_broadcastsi128_si256(_mm_packus_epi16(_mm_srli_epi16(first, 8), _mm_srli_epi16(second, 8)))};
}
inline void look_up_32(uint16_t *to, const Values16 &values, const uint8_t *codes) {
  const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)codes));
  const __m256i index = _mm256_and_si256(_mm256_or_si256(_mm256_srli_epi16(bytes, 4), _mm256_slli_epi16(bytes, 8)),
                                         _mm256_set1_epi8(15));
  const __m256i low = _mm256_shuffle_epi8(values.low, index), high = _mm256_shuffle_epi8(values.high, index);
  const __m256i even = _mm256_unpacklo_epi8(low, high), odd = _mm256_unpackhi_epi8(low, high);
  _mm256_storeu_si256((__m256i *)to, _mm256_permute2x128_si256(even, odd, 0x20));
  _mm256_storeu_si256((__m256i *)(to + 16), _mm256_permute2x128_si256(even, odd, 0x31));
}
#endif

}  // namespace nt
