// What attention's products are without AMX: `multiply` (word_tiles.h) by blocks whose distances the compiler knows.
#pragma once
#include <type_traits>

#include "attention.h"
#include "word_block.h"

namespace nt {

constexpr int64_t kBlockRows = kAccumulators / kVectors;

// C[kBlockRows, kVectors vectors] (+)= Σ_j a(m, j) · b[j], as micro_kernel, but unrolled, and with the distances between
// rows in the code where they are not 0: with AVX2 up to a tenth faster.
template <bool Pairs, bool Columns, int64_t Lda, int64_t Ldb, int64_t Ldc>
__attribute__((noinline)) void whole_block(int64_t count, const float *a, int64_t lda, const float *b, int64_t ldb,
                                           float *c, int64_t ldc, bool add) {
  if constexpr (Lda > 0) lda = Lda;
  if constexpr (Ldb > 0) ldb = Ldb;
  if constexpr (Ldc > 0) ldc = Ldc;
  WordBlock<Pairs, kBlockRows, kVectors> block;
  block.begin(c, ldc, add);
  block.multiply(count, a, Columns ? 1 : lda, Columns ? lda : 1, b, ldb, [] {});
  block.end(c, ldc);
}

// As multiply. Distances between rows that are known when this is compiled are given twice; others are 0 as parameters of
// the template.
template <bool Pairs, bool Columns, int64_t Lda, int64_t Ldb, int64_t Ldc, typename Parts>
void multiply_blocks(int64_t rows, int64_t vectors, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                     int64_t ldc, bool add, const Parts &part) {
  if (vectors % kVectors != 0) return multiply<Pairs, Columns>(rows, vectors, a, lda, b, ldb, c, ldc, add, part);
  for (int64_t n = 0; n < vectors; n += kVectors)
    for (int64_t m = 0, height; m < rows; m += height) {
      const int64_t left = rows - m;
      height = left >= 2 * kBlockRows ? kBlockRows : left <= kBlockRows ? left : (left + 1) / 2;
      const Part wanted = part(m, height);
      const int64_t first = std::max(wanted.vector, n), end = std::min<int64_t>(wanted.last, n + kVectors);
      if (first >= end) continue;
      const float *from = a + (Columns ? wanted.begin * lda + m : m * lda + wanted.begin);
      const float *right = b + wanted.begin * ldb + first * kLanes;
      float *to = c + m * ldc + first * kLanes;
      if (height == kBlockRows && end - first == kVectors)
        whole_block<Pairs, Columns, Lda, Ldb, Ldc>(wanted.end - wanted.begin, from, lda, right, ldb, to, ldc, add);
      else
        micro<Pairs, Columns>(height, end - first, wanted.end - wanted.begin, from, lda, right, ldb, to, ldc, add);
    }
}

// call(n) where n.value is head_size's columns if that is a common one, else 0.
template <typename Call>
void with_columns(const HeadSize &head, const Call &call) {
  if (head.columns == 64) return call(std::integral_constant<int64_t, 64>{});
  if (head.columns == 128) return call(std::integral_constant<int64_t, 128>{});
  call(std::integral_constant<int64_t, 0>{});
}

// Sᵀ[n keys, rows] = A[keys, words]·B[words, rows] where some row sees some key of a block.
template <bool Pairs>
void scores_of_tile(const Panel &panel, int64_t start, int64_t n, const HeadSize &head, const float *a, const float *b,
                    float *scores) {
  with_columns(head, [&](auto columns) {
    multiply_blocks<Pairs, false, columns.value / (Pairs ? 2 : 1), kPanel, kPanel>(
        n, panel.vectors, a, head.stride, b, kPanel, scores, kPanel, false, [&](int64_t k, int64_t several) {
          return Part{panel.first_row(start + k) / kLanes, 0, head.words, panel.end_vector(start + k + several - 1)};
        });
  });
}

// C[rows, columns] (+)= A[rows, keys]·B[keys, columns], A stored [words of the tile's n keys, kPanel].
template <bool Pairs>
void sum_keys(const Panel &panel, int64_t start, int64_t n, const HeadSize &head, const float *a, const float *b,
              float *c, bool add) {
  with_columns(head, [&](auto columns) {
    multiply_blocks<Pairs, true, kPanel, columns.value, columns.value>(
        panel.rows, head.columns / kLanes, a, kPanel, b, head.columns, c, head.columns, add,
        [&](int64_t r, int64_t rows) { return panel.words_seen<Pairs>(r, rows, start, n); });
  });
}

// C[n keys, columns] += A[keys, words of rows]·B[words of rows, columns].
template <bool Pairs>
void sum_rows(const Panel &panel, int64_t start, int64_t n, const HeadSize &head, const float *a, const float *b,
              float *c) {
  constexpr int64_t pair = Pairs ? 2 : 1;
  with_columns(head, [&](auto columns) {
    multiply_blocks<Pairs, false, kPanel / pair, columns.value, columns.value>(
        n, head.columns / kLanes, a, kPanel / pair, b, head.columns, c, head.columns, true,
        [&](int64_t k, int64_t several) {
          const int64_t end = panel.end_row(start + k + several - 1);
          return Part{0, std::min(panel.first_row(start + k), end) / pair, (end + pair - 1) / pair};
        });
  });
}

}  // namespace nt
