// What products by AMX read and write: words of two bf16 that follow each other in the direction of the sum, and results
// in bf16 or float32.
#pragma once
#include <algorithm>

#include "../matrix.h"
#include "amx.h"
#include "rounding.h"
#include "square.h"

#ifdef __AMX_BF16__

namespace nt {

constexpr int64_t kPair = 2;               // bf16 in a word
constexpr int64_t kStep = kEdge * kPair;   // of the sum, in one tile
constexpr int64_t kBlock = 2 * kEdge;      // rows and columns of C that four tiles hold

inline __mmask32 first(int64_t n) { return n >= 32 ? ~__mmask32{0} : __mmask32((uint64_t(1) << (n < 0 ? 0 : n)) - 1); }

// words[j, kEdge columns]: of rows row(2·j) and row(2·j + 1), `columns` elements each, those side by side in a word, for
// kEdge pairs. A null row counts as zeros.
template <typename Row>
inline void interleave(Vec (&words)[kEdge], int64_t columns, const Row &row) {
  auto widen = [&](const bf16 *from) {
    if (from == nullptr) return _mm512_setzero_si512();
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(__mmask16(first(std::min(columns, kEdge))), from));
  };
  for (int64_t j = 0; j < kEdge; j++)
    words[j] = (Vec)_mm512_or_si512(widen(row(2 * j)), _mm512_slli_epi32(widen(row(2 * j + 1)), 16));
}

// A tile of words of q[K, N], from row k and column n on, zeros beyond its ends.
inline void right_tile(Vec (&words)[kEdge], const Matrix &q, int64_t k, int64_t n, int64_t K, int64_t N) {
  const auto *data = static_cast<const bf16 *>(q.data);
  if (q.row == 1) {
    for (int64_t j = 0; j < kEdge; j++)
      words[j] = n + j < N ? (Vec)_mm512_maskz_loadu_epi16(first(K - k), data + (n + j) * q.column + k) : Vec{};
    transpose(words);
  } else {
    interleave(words, N - n, [&](int64_t i) { return k + i < K ? data + (k + i) * q.row + n : nullptr; });
  }
}

// kBlock elements.
inline void put(bf16 *c, const float *sums) {
  _mm512_storeu_si512(c, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(sums + kEdge), _mm512_loadu_ps(sums)));
}
inline void put(float *c, const float *sums) {
  for (int64_t i = 0; i < kBlock; i += kEdge) store(c + i, load(sums + i));
}

// c[rows, columns] = or += sums[rows, ld].
inline void put(bf16 *c, int64_t ldc, const float *sums, int64_t ld, int64_t rows, int64_t columns, bool accumulate,
                float scale) {
  const __mmask16 low = __mmask16(first(std::min(columns, kEdge)));
  const __mmask32 both = first(columns);
  auto sum = [&](const float *from, const bf16 *old, __mmask16 mask) {
    __m512 value = (__m512)(load(from) * splat(scale));
    if (!accumulate) return value;
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, old));
    return _mm512_add_ps(value, (__m512)_mm512_slli_epi32(wide, 16));
  };
  for (int64_t i = 0; i < rows; i++, c += ldc, sums += ld) {
    if (columns > kEdge) {
      const __m512 right = sum(sums + kEdge, c + kEdge, __mmask16(both >> 16));
      _mm512_mask_storeu_epi16(c, both, (__m512i)_mm512_cvtne2ps_pbh(right, sum(sums, c, low)));
    } else {
      _mm256_mask_storeu_epi16(c, low, (__m256i)_mm512_cvtneps_pbh(sum(sums, c, low)));
    }
  }
}
inline void put(float *c, int64_t ldc, const float *sums, int64_t ld, int64_t rows, int64_t columns, bool accumulate,
                float scale) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j += kEdge) {
      const __mmask16 mask = __mmask16(first(std::min(columns - j, kEdge)));
      Vec value = load(sums + i * ld + j) * splat(scale);
      if (accumulate) value += (Vec)_mm512_maskz_loadu_ps(mask, c + i * ldc + j);
      _mm512_mask_storeu_ps(c + i * ldc + j, mask, (__m512)value);
    }
}

}  // namespace nt

#endif
