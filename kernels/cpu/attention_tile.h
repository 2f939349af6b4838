// The tiles that attention computes with, forward and backward.
//
// The query heads of one key/value head are stacked by position: row r of the stack is head r % group at position
// r / group, so that row r sees the keys up to r / group, `window` of them at most. Rows are taken kPanel at a time, keys
// kTile at a time, and every product of a panel with a tile is one call of `multiply` (word_tiles.h).
#pragma once
#include "exp2.h"
#include "word_tiles.h"

namespace nt {

constexpr int64_t kTile = 96;
static_assert(kTile % 2 == 0 && kPanel % (kVectors * kLanes) == 0, "panels hold whole vectors, tiles whole pairs");

inline int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

// Sizes that follow from head_dim, in words.
struct HeadSize {
  int64_t columns;  // head_dim in whole vectors
  int64_t words;    // words of a row that count in a sum over head_dim
  int64_t stride;   // words between rows that lie side by side
};

template <bool Pairs>
HeadSize head_size(int64_t head_dim) {
  int64_t columns = round_up(head_dim, kLanes);
  if (!Pairs) return {columns, head_dim, columns};
  return {columns, (head_dim + 1) / 2, round_up((head_dim + 1) / 2, kLanes)};
}

template <typename T>
inline void store_row(T *y, const float *x, float scale, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_rounded(y + i, load(x + i) * splat(scale));
  if (i < n) store_part(y + i, load(x + i) * splat(scale), n - i);
}

// log₂ x for normal x > 0, NaN kept: with s = (m − 1) / (m + 1), log m = 2·(s + s³/3 + s⁵/5 + …).
inline Vec log2(Vec x) {
  VecI shifted = (VecI)x - 0x3F3504F3;  // √½: mantissas come to lie in [√½, √2)
  VecI exponent = shifted >> 23;
  Vec m = (Vec)((VecI)x - (exponent << 23));
  Vec s = (m - splat(1.0f)) / (m + splat(1.0f)), square = s * s;
  Vec p = fma(splat(1.0f / 9), square, splat(1.0f / 7));
  p = fma(p, square, splat(1.0f / 5));
  p = fma(p, square, splat(1.0f / 3));
  p = fma(p, square, splat(1.0f));
  Vec y = fma(p * s, splat(2 * kLog2E), __builtin_convertvector(exponent, Vec));
  return select(x != x, x, y);
}

inline VecI lane_numbers() {
  VecI lanes;
  for (int i = 0; i < kLanes; i++) lanes[i] = i;
  return lanes;
}

}  // namespace nt
