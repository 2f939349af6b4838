// What attention's products are with AMX: the operands that its tiles read, and the products themselves.
#pragma once
#include "amx.h"
#include "attention.h"

namespace nt {

// Words between the rows of `n` words that products start to read at any word: they may read a tile's width too far.
inline int64_t amx_stride(int64_t n) { return round_up(n, kEdge) + kEdge; }

// words[columns, ld] = packed rows of bf16 [n, stride], transposed, in pairs of rows; zeros behind.
inline void pack_column_pairs(float *words, int64_t ld, const float *packed, int64_t n, int64_t stride,
                              int64_t columns) {
  for (int64_t w = 0; w < ld; w += kLanes)
    for (int64_t i = 0; i < columns; i += kLanes) {
      Vec block[kLanes];
      for (int64_t j = 0; j < kLanes; j++) block[j] = row_pair(packed, 2 * (w + j), n, stride, i);
      transpose(block);
      for (int64_t j = 0; j < kLanes; j++) store(words + (i + j) * ld + w, block[j]);
    }
}

// rows[kLanes, columns] = columns_of[columns, kPanel] from lane 0 on, transposed.
inline void rows_of_columns(float *rows, const float *columns_of, int64_t columns) {
  for (int64_t i = 0; i < columns; i += kLanes) {
    Vec block[kLanes];
    for (int64_t j = 0; j < kLanes; j++) block[j] = load(columns_of + (i + j) * kPanel);
    transpose(block);
    for (int64_t j = 0; j < kLanes; j++) store(rows + j * columns + i, block[j]);
  }
}

// C[rows, vectors] (+)= A·B, A[rows, words], B[words, vectors], all row-major, by blocks of two tiles by two.
// part(m, v, several) tells which words count for the block of rows from m and `several` vectors from v on; an end
// before the begin leaves that block as it was. What lies beyond up to whole tiles is computed, too: rows have room
// for it, and the words there have a finite value in A and 0 in B.
template <typename Parts>
inline void multiply_amx(int64_t rows, int64_t vectors, const float *a, int64_t lda, const float *b, int64_t ldb,
                         float *c, int64_t ldc, bool add, const Parts &part) {
  for (int64_t m = 0; m < rows; m += 2 * kEdge)
    for (int64_t v = 0; v < vectors; v += 2) {
      const int64_t several = std::min<int64_t>(2, vectors - v);
      const Keys words = part(m, v, several);
      if (words.end < words.begin || (add && words.end == words.begin)) continue;
      amx_product(rows - m > kEdge, several > 1, words.begin / kEdge * kEdge, round_up(words.end, kEdge), a + m * lda,
                  lda, b + v * kEdge, ldb, c + m * ldc + v * kEdge, ldc, add);
    }
}

// Sᵀ[n keys, rows] = A[keys, words]·B[words, rows] where some row sees some key of a block.
inline void scores_amx(const Panel &panel, int64_t start, int64_t n, const HeadSize &head, const float *a,
                       const float *b, float *scores) {
  multiply_amx(n, panel.vectors, a, head.stride, b, kPanel, scores, kPanel, false,
               [&](int64_t k, int64_t v, int64_t several) {
                 const int64_t last = std::min(k + 2 * kEdge, n) - 1;
                 const bool seen = v + several > panel.first_row(start + k) / kLanes && v < panel.end_vector(start + last);
                 return seen ? Keys{0, head.words} : Keys{0, -1};
               });
}

// C[columns, rows] (+)= A[columns, pairs of keys]·B[pairs of the tile's n keys, rows].
inline void sum_keys_amx(const Panel &panel, int64_t start, int64_t n, const HeadSize &head, const float *a, int64_t lda,
                         const float *b, float *c, bool add) {
  multiply_amx(head.columns, panel.vectors, a, lda, b, kPanel, c, kPanel, add,
               [&](int64_t, int64_t v, int64_t several) {
                 const Part part = panel.words_seen<true>(v * kLanes, several * kLanes, start, n);
                 return Keys{part.begin, part.end};
               });
}

// C[n keys, columns] += A[keys, pairs of rows]·B[pairs of rows, columns].
inline void sum_rows_amx(const Panel &panel, int64_t start, int64_t n, const HeadSize &head, const float *a,
                         const float *b, float *c) {
  multiply_amx(n, head.columns / kLanes, a, kPanel / 2, b, head.columns, c, head.columns, true,
               [&](int64_t k, int64_t, int64_t) {
                 const int64_t last = std::min(k + 2 * kEdge, n) - 1, end = panel.end_row(start + last);
                 return Keys{std::min(panel.first_row(start + k), end) / 2, (end + 1) / 2};
               });
}

}  // namespace nt
