// Products of tiles of words (word_tiles.h) with AMX.
#pragma once
#include <algorithm>

#include "amx.h"
#include "parallel.h"
#include "word_tiles.h"

namespace nt {

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
      const Range words = part(m, v, several);
      if (words.end < words.begin || (add && words.end == words.begin)) continue;
      amx_product(rows - m > kEdge, several > 1, words.begin / kEdge * kEdge, round_up(words.end, kEdge), a + m * lda,
                  lda, b + v * kEdge, ldb, c + m * ldc + v * kEdge, ldc, add);
    }
}

}  // namespace nt
