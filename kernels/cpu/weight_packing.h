// Strips of a product's right operand (word_packing.h) made from a weight that is no matrix in memory: row by row, from the
// part of a stack that has it. Of one in NF4 some hundred values at a time are looked up, then packed as if they had lain in a
// dense weight: they stay in the L1 cache in between, and memory gives codes, a quarter of the bytes.
#pragma once
#include "matmul.h"
#include "weight.h"
#include "word_packing.h"

namespace nt {

constexpr int64_t kPieceWords = 128;  // of a row that are looked up at a time

// The last end of a block up to k, where rows are whole blocks: what ends there makes no value be looked up twice.
inline int64_t block_end(int64_t k) { return k / NT_NF4_BLOCK * NT_NF4_BLOCK; }

// A piece of a weight's row.
template <typename T>
struct RowPiece {
  T memory[kPieceWords * Packing<T>::values + kNf4Beside];

  // Values [first, first + n) of the row.
  const T *of(const nt_weight *weight, int64_t row, int64_t first, int64_t n) {
    if (weight->count > 0) {
      const nt_weight *const *part = weight->parts;
      while (row >= (*part)->out) row -= (*part++)->out;
      weight = *part;
    }
    if (weight->data != nullptr) return static_cast<const T *>(weight->data) + row * weight->ld + first;
    const int64_t begin = row * weight->in + first;
    return static_cast<const T *>(nf4_values(memory, weight, begin, begin + n));
  }
};

// A strip of Wᵀ: columns from n on, words [first, first + words) of the sum.
template <typename T>
inline void pack_transposed_strip(float *to, const nt_weight *weight, int64_t n, int64_t first, int64_t words) {
  typedef Packing<T> P;
  RowPiece<T> rows[kLanes];
  for (int64_t v = 0; v < kStrip; v += kLanes) {
    const int64_t columns = std::min<int64_t>(kLanes, weight->out - n - v);
    for (int64_t w = first, end; w < first + words; w = end) {
      end = std::min(first + words, block_end((w + kPieceWords) * P::values) / P::values);
      const int64_t k = w * P::values, count = std::min(end * P::values, weight->in) - k;
      const T *begins[kLanes];
      for (int64_t j = 0; j < columns; j++) begins[j] = rows[j].of(weight, n + v + j, k, count);
      pack_columns(to + (w - first) * kStrip + v, kStrip, begins, columns, count, end - w);
    }
  }
}

// Strips of W, `distance` floats apart: `columns` columns from n on, words [first, first + words) of the sum; zeros beyond
// its columns.
template <typename T>
inline void pack_strips(float *to, int64_t distance, const nt_weight *weight, int64_t n, int64_t columns, int64_t first,
                        int64_t words) {
  typedef Packing<T> P;
  static_assert(NT_NF4_BLOCK % kStrip == 0, "pieces of rows are whole strips");
  RowPiece<T> row, next;
  for (int64_t v = 0, end; v < columns; v = end) {
    end = std::min(columns, block_end(n + v + kPieceWords) - n);
    const int64_t wide = round_up(end - v, kStrip), count = std::min(wide, weight->in - n - v);
    for (int64_t w = 0; w < words; w++) {
      const int64_t k = (first + w) * P::values;
      const T *a = row.of(weight, k, n + v, count);
      const T *b = P::pairs && k + 1 < weight->out ? next.of(weight, k + 1, n + v, count) : nullptr;
      for (int64_t j = 0; j < wide; j += kLanes)
        store(to + (v + j) / kStrip * distance + w * kStrip + j % kStrip,
              j < count ? P::across(a + j, b == nullptr ? b : b + j, count - j) : Vec{});
    }
  }
}

// Strips of a product's right operand, as above.
template <typename T>
inline void pack_right(float *to, int64_t distance, const Product &product, int64_t n, int64_t columns, int64_t first,
                       int64_t words) {
  const WeightOperand &b = product.b_weight;
  if (b.weight != nullptr && !b.transposed) return pack_strips<T>(to, distance, b.weight, n, columns, first, words);
  for (const int64_t end = n + columns; n < end; n += kStrip, to += distance) {
    if (b.weight != nullptr)
      pack_transposed_strip<T>(to, b.weight, n, first, words);
    else
      pack_strip<T>(to, product.b, product.k, product.n, n, first, words);
  }
}

}  // namespace nt
