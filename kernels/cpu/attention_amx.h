// What attention's products are with AMX.
#pragma once
#include "attention.h"
#include "word_tiles_amx.h"

namespace nt {

// Words between the rows of `n` words that products start to read at any word: they may read a tile's width too far.
inline int64_t amx_stride(int64_t n) { return round_up(n, kEdge) + kEdge; }

// Sᵀ[n keys, rows] = A[keys, words]·B[words, rows] where some row sees some key of a block.
inline void scores_amx(const Panel &panel, int64_t start, int64_t n, const HeadSize &head, const float *a,
                       const float *b, float *scores) {
  multiply_amx(n, panel.vectors, a, head.stride, b, kPanel, scores, kPanel, false,
               [&](int64_t k, int64_t v, int64_t several) {
                 const int64_t last = std::min(k + 2 * kEdge, n) - 1;
                 const bool seen = v + several > panel.first_row(start + k) / kLanes && v < panel.end_vector(start + last);
                 return seen ? Range{0, head.words} : Range{0, -1};
               });
}

// C[columns, rows] (+)= A[columns, pairs of keys]·B[pairs of the tile's n keys, rows].
inline void sum_keys_amx(const Panel &panel, int64_t start, int64_t n, const HeadSize &head, const float *a, int64_t lda,
                         const float *b, float *c, bool add) {
  multiply_amx(head.columns, panel.vectors, a, lda, b, kPanel, c, kPanel, add,
               [&](int64_t, int64_t v, int64_t several) {
                 const Part part = panel.words_seen<true>(v * kLanes, several * kLanes, start, n);
                 return Range{part.begin, part.end};
               });
}

// C[n keys, columns] += A[keys, pairs of rows]·B[pairs of rows, columns].
inline void sum_rows_amx(const Panel &panel, int64_t start, int64_t n, const HeadSize &head, const float *a,
                         const float *b, float *c) {
  multiply_amx(n, head.columns / kLanes, a, kPanel / 2, b, head.columns, c, head.columns, true,
               [&](int64_t k, int64_t, int64_t) {
                 const int64_t last = std::min(k + 2 * kEdge, n) - 1, end = panel.end_row(start + last);
                 return Range{std::min(panel.first_row(start + k), end) / 2, (end + 1) / 2};
               });
}

}  // namespace nt
