// Products of tiles whose operands were copied into words, to be used many times. A word holds what one lane multiplies
// at a time: a float, or, where the CPU multiplies bf16 (kPairs), two bf16 that follow each other in the direction of
// the sum.
#pragma once
#include <string.h>

#include "panel.h"
#include "rounding.h"
#include "square.h"

namespace nt {

#ifdef __AVX512F__
constexpr int kVectors = 4;  // vectors of C that a micro-kernel holds in a row
constexpr int kAccumulators = 24;
#else
constexpr int kVectors = 2;
constexpr int kAccumulators = 12;
#endif

template <typename T>
constexpr bool kPairs = false;
#ifdef __AVX512BF16__
template <>
inline constexpr bool kPairs<bf16> = true;
#endif

// ------------------------------------------------------------------ products

// c + a·b, where a and b hold words.
template <bool Pairs>
inline Vec multiply_add(Vec a, Vec b, Vec c) {
#ifdef __AVX512BF16__
  if constexpr (Pairs) return (Vec)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#endif
  return fma(a, b, c);
}

// C[M, N vectors] (+)= Σ_j a(m, j) · b[j, N vectors]. a(m, j) is a[m · lda + j], or a[j · lda + m] with Columns.
template <bool Pairs, bool Columns, int M, int N>
__attribute__((noinline)) void micro_kernel(int64_t count, const float *a, int64_t lda, const float *b, int64_t ldb,
                                            float *c, int64_t ldc, bool add) {
  Vec sums[M][N];
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N; n++) sums[m][n] = add ? load(c + m * ldc + n * kLanes) : Vec{};
  // A pointer for three rows: as many as address arithmetic gives for free.
  const float *rows[(M + 2) / 3];
#pragma unroll
  for (int m = 0; m < (M + 2) / 3; m++) rows[m] = Columns ? a + 3 * m : a + 3 * m * lda;
  for (int64_t j = 0; j < count; j++) {
    Vec right[N];
#pragma unroll
    for (int n = 0; n < N; n++) right[n] = load(b + n * kLanes);
#pragma unroll
    for (int m = 0; m < M; m++) {
      Vec left = splat(rows[m / 3][Columns ? m % 3 : (m % 3) * lda]);
#pragma unroll
      for (int n = 0; n < N; n++) sums[m][n] = multiply_add<Pairs>(left, right[n], sums[m][n]);
    }
    b += ldb;
#pragma unroll
    for (int m = 0; m < (M + 2) / 3; m++) rows[m] += Columns ? lda : 1;
  }
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N; n++) store(c + m * ldc + n * kLanes, sums[m][n]);
}

constexpr int rows_at_once(int vectors) { return kAccumulators / vectors < 12 ? kAccumulators / vectors : 12; }

template <bool Pairs, bool Columns, int M, int N>
inline void micro_rows(int64_t m, int64_t count, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                       int64_t ldc, bool add) {
  if (m == M) return micro_kernel<Pairs, Columns, M, N>(count, a, lda, b, ldb, c, ldc, add);
  if constexpr (M > 1) micro_rows<Pairs, Columns, M - 1, N>(m, count, a, lda, b, ldb, c, ldc, add);
}

template <bool Pairs, bool Columns>
inline void micro(int64_t m, int64_t n, int64_t count, const float *a, int64_t lda, const float *b, int64_t ldb,
                  float *c, int64_t ldc, bool add) {
#ifdef __AVX512F__
  if (n == 4) return micro_rows<Pairs, Columns, rows_at_once(4), 4>(m, count, a, lda, b, ldb, c, ldc, add);
  if (n == 3) return micro_rows<Pairs, Columns, rows_at_once(3), 3>(m, count, a, lda, b, ldb, c, ldc, add);
#endif
  if (n == 2) return micro_rows<Pairs, Columns, rows_at_once(2), 2>(m, count, a, lda, b, ldb, c, ldc, add);
  micro_rows<Pairs, Columns, rows_at_once(1), 1>(m, count, a, lda, b, ldb, c, ldc, add);
}

// What is seen of a block of rows of C: vectors from `vector` up to `last`, and the words [begin, end) of the sum.
struct Part {
  int64_t vector, begin, end;
  int64_t last = INT64_MAX;
};

// C[rows, vectors] (+)= A·B, A[rows, words] (Columns: stored [words, rows]), B[words, vectors], all row-major.
// part(m, rows) tells which part of the block of C's rows from m on is wanted; the rest may stay as it was.
template <bool Pairs, bool Columns, typename Parts>
inline void multiply(int64_t rows, int64_t vectors, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                     int64_t ldc, bool add, const Parts &part) {
  int64_t strips = (vectors + kVectors - 1) / kVectors;
  for (int64_t strip = 0, n = 0; strip < strips; strip++) {
    int64_t width = (vectors - n + strips - strip - 1) / (strips - strip);
    int64_t most = rows_at_once(int(width));
    int64_t blocks = (rows + most - 1) / most;
    for (int64_t block = 0, m = 0; block < blocks; block++) {
      int64_t height = (rows - m + blocks - block - 1) / (blocks - block);
      Part wanted = part(m, height);
      int64_t first = wanted.vector > n ? wanted.vector : n, end = wanted.last < n + width ? wanted.last : n + width;
      if (first < end)
        micro<Pairs, Columns>(height, end - first, wanted.end - wanted.begin,
                              a + (Columns ? wanted.begin * lda + m : m * lda + wanted.begin), lda,
                              b + wanted.begin * ldb + first * kLanes, ldb, c + m * ldc + first * kLanes, ldc, add);
      m += height;
    }
    n += width;
  }
}

// ------------------------------------------------------------------ copies

// words[n, stride] = the rows row(0) … row(n − 1) of `columns` elements, zeros behind.
template <bool Pairs, typename T, typename Row>
inline void pack_rows(float *words, int64_t n, int64_t columns, int64_t stride, const Row &row) {
  for (int64_t r = 0; r < n; r++, words += stride) {
    const T *source = row(r);
    if constexpr (Pairs) {
      int64_t w = 0;
      for (; 2 * (w + kLanes) <= columns; w += kLanes)
        store(words + w, load(reinterpret_cast<const float *>(source + 2 * w)));
      if (w == stride) continue;
      memcpy(words + w, source + 2 * w, size_t(columns - 2 * w) * sizeof(T));
      memset(reinterpret_cast<char *>(words) + columns * sizeof(T), 0, size_t(stride * 4 - columns * sizeof(T)));
    } else {
      int64_t i = 0;
      for (; i + kLanes <= columns; i += kLanes) store(words + i, load(source + i));
      if (i < columns) store(words + i, load_part(source + i, columns - i));
    }
  }
}

// Of packed rows of bf16 [n, stride], kLanes words at column i: rows r and r + 1 side by side. Missing rows count as 0.
inline Vec row_pair(const float *packed, int64_t r, int64_t n, int64_t stride, int64_t i) {
  auto widen = [&](int64_t row) { return (VecU)load(reinterpret_cast<const bf16 *>(packed + row * stride) + i) >> 16; };
  VecU word = r < n ? widen(r) : VecU{};
  if (r + 1 < n) word |= widen(r + 1) << 16;
  return (Vec)word;
}

// From packed rows of bf16 pairs [n, stride] to pairs over two rows: [n / 2 rounded up, columns]; a missing last row
// counts as zeros.
inline void pack_row_pairs(float *words, const float *packed, int64_t n, int64_t stride, int64_t columns) {
  for (int64_t r = 0; r < n; r += 2, words += columns)
    for (int64_t i = 0; i < columns; i += kLanes) store(words + i, row_pair(packed, r, n, stride, i));
}

// words[w, kPanel] = packed[r, stride]ᵀ for rows < n (lanes up to the next whole vector are zero) and w < stride.
inline void pack_transposed(float *words, const float *packed, int64_t n, int64_t stride) {
  for (int64_t r = 0; r < n; r += kLanes)
    for (int64_t w = 0; w < stride; w += kLanes) {
      Vec block[kLanes];
      for (int i = 0; i < kLanes; i++) block[i] = r + i < n ? load(packed + (r + i) * stride + w) : Vec{};
      transpose(block);
      for (int i = 0; i < kLanes; i++) store(words + (w + i) * kPanel + r, block[i]);
    }
}

// Two vectors of floats, rounded: the first in the lower half, the second in the upper one.
inline Vec halves(Vec first, Vec second) {
#ifdef __AVX512BF16__
  return (Vec)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
#else
  (void)second;
  return first;
#endif
}
// The lanes of the two halves side by side, as words.
inline Vec interleaved(Vec halves) {
#ifdef __AVX512BF16__
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (Vec)_mm512_permutexvar_epi16(order, (__m512i)halves);
#else
  return halves;
#endif
}
inline void store_halves(float *first, float *second, Vec halves) {
  memcpy(first, &halves, sizeof(Vec) / 2);
  memcpy(second, reinterpret_cast<const char *>(&halves) + sizeof(Vec) / 2, sizeof(Vec) / 2);
}

// Vectors of words from two vectors of floats, rounded: first in the low halves, second in the high ones.
inline Vec pair_words(Vec first, Vec second) { return interleaved(halves(first, second)); }

// Stores floats as words in the direction of the lanes: half as many where neighbors pair up.
template <bool Pairs>
inline void store_words(float *words, Vec x) {
#ifdef __AVX512BF16__
  if constexpr (Pairs)
    return _mm256_storeu_si256(reinterpret_cast<__m256i *>(words), (__m256i)_mm512_cvtneps_pbh((__m512)x));
#endif
  store(words, x);
}

inline bool any(VecI mask) {
#ifdef __AVX512F__
  return _mm512_movepi32_mask((__m512i)mask) != 0;
#else
  return _mm256_movemask_ps((__m256)mask) != 0;
#endif
}

}  // namespace nt
