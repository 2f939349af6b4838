// Operands of products by AMX as tiles that follow each other: a block of 32 rows of the left operand, or of 32 columns of
// the right one, is [steps, 2 tiles, 16, 16 words]. Tiles whose rows lie further apart, in the same few sets of a cache, are
// loaded at a third of the speed.
#pragma once
#include "amx_words.h"
#include "pair_rows.h"

#ifdef __AMX_BF16__

namespace nt {

// The block of q[K, N] from column n on, `steps` steps from `first_step` on, zeros beyond q's ends.
inline void pack_columns(float *to, const Matrix &q, int64_t K, int64_t N, int64_t n, int64_t first_step, int64_t steps) {
  for (int64_t step = 0; step < steps; step++)
    for (int64_t j = 0; j < kBlock; j += kEdge, to += kTileSize) {
      Vec tile[kEdge];
      right_tile(tile, q, (first_step + step) * kStep, n + j, K, N);
      for (int64_t i = 0; i < kEdge; i++) store(to + i * kEdge, tile[i]);
    }
}

// `blocks` of these, `distance` words apart, of a q that is stored by rows, which has all of them: its rows are read along.
inline void pack_column_blocks(float *to, int64_t distance, int64_t blocks, const Matrix &q, int64_t n, int64_t first_step,
                               int64_t steps) {
  const auto *data = static_cast<const bf16 *>(q.data) + n;
  const __m512i low = pair_order(), high = _mm512_add_epi16(low, _mm512_set1_epi16(kEdge));
  for (int64_t step = 0; step < steps; step++)
    for (int64_t i = 0; i < kEdge; i++) {
      const bf16 *row = data + ((first_step + step) * kStep + kPair * i) * q.row;
      float *at = to + step * kBlockStep + i * kEdge;
      for (int64_t block = 0; block < blocks; block++, at += distance, row += kBlock) {
        const __m512i one = _mm512_loadu_si512(row), two = _mm512_loadu_si512(row + q.row);
        _mm512_storeu_si512(at, _mm512_permutex2var_epi16(one, low, two));
        _mm512_storeu_si512(at + kTileSize, _mm512_permutex2var_epi16(one, high, two));
      }
    }
}

// A block of a's rows, `steps` steps from value k of K on, zeros beyond K and up to whole tiles of rows.
inline void pack_rows(float *to, const bf16 *a, int64_t lda, int64_t rows, int64_t k, int64_t steps, int64_t K) {
  for (int64_t i = 0; i < round_up(rows, kEdge); i++)
    for (int64_t step = 0; step < steps; step++) {
      const int64_t from = k + step * kStep;
      const Vec words = i < rows ? (Vec)_mm512_maskz_loadu_epi16(first(K - from), a + i * lda + from) : Vec{};
      store(to + step * kBlockStep + i * kEdge, words);
    }
}

}  // namespace nt

#endif
