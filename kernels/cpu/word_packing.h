// Operands of a product in the order in which a micro-kernel reads them, as words (word_tiles.h).
#pragma once
#include <string.h>

#include <algorithm>

#include "../matrix.h"
#include "low_rank_term.h"
#include "parallel.h"
#include "word_tiles.h"

namespace nt {

constexpr int64_t kStrip = kVectors * kLanes;  // columns of the right operand that a micro-kernel holds

// What operands of type T become in words.
template <typename T>
struct Packing {
  static constexpr bool pairs = kPairs<T>;
  static constexpr int64_t values = pairs ? 2 : 1;  // in a word

  static int64_t words(int64_t k) { return ceil_div(k, values); }

  // kLanes words of values that follow each other, of which n are there.
  static Vec along(const T *from, int64_t n = kLanes * values) {
    if constexpr (pairs) {
      if (n >= 2 * kLanes) return load(reinterpret_cast<const float *>(from));
      Vec words = {};
      memcpy(&words, from, size_t(n) * sizeof(T));
      return words;
    } else {
      return n >= kLanes ? load(from) : load_part(from, n);
    }
  }
  // kLanes words of values in a row, and in the next one of a pair (null: zeros), of which n are there.
  static Vec across(const T *from, const T *next, int64_t n = kLanes) {
    if constexpr (pairs) {
      const auto widen = [&](const T *row) {
        return row == nullptr ? VecU{} : (VecU)(n >= kLanes ? load(row) : load_part(row, n));
      };
      return (Vec)(widen(from) >> 16 | widen(next));
    } else {
      (void)next;
      return n >= kLanes ? load(from) : load_part(from, n);
    }
  }
};

// to[rows, stride] = of a's rows from m on, `words` words from the `first` on; a sum is K values long. Words up to the next
// whole vector are written, too.
template <typename T>
inline void pack_left(float *to, int64_t stride, const Matrix &a, int64_t m, int64_t rows, int64_t first, int64_t words, int64_t K) {
  typedef Packing<T> P;
  const T *data = static_cast<const T *>(a.data);
  if (a.column == 1) {
    const int64_t whole = std::min(words, K / P::values - first) / kLanes * kLanes;
    for (int64_t i = 0; i < rows; i++) {
      const T *row = data + (m + i) * a.row + first * P::values;
      for (int64_t w = 0; w < whole; w += kLanes) store(to + i * stride + w, P::along(row + w * P::values));
      for (int64_t w = whole; w < words; w += kLanes)
        store(to + i * stride + w, P::along(row + w * P::values, K - (first + w) * P::values));
    }
    return;
  }
  for (int64_t i = 0; i < rows; i += kLanes)
    for (int64_t w = 0; w < words; w += kLanes) {
      Vec block[kLanes];
      for (int64_t j = 0; j < kLanes; j++) {
        const int64_t k = (first + w + j) * P::values;
        const T *from = data + k * a.column + m + i;
        block[j] = w + j < words ? P::across(from, k + 1 < K ? from + a.column : nullptr, rows - i) : Vec{};
      }
      transpose(block);
      for (int64_t j = 0; j < std::min<int64_t>(kLanes, rows - i); j++) store(to + (i + j) * stride + w, block[j]);
    }
}

// to[words, width]: kLanes columns of the right operand, of which `columns` are there, each K values from where it begins.
template <typename T>
inline void pack_columns(float *to, int64_t width, const T *const (&begins)[kLanes], int64_t columns, int64_t K,
                         int64_t words) {
  typedef Packing<T> P;
  for (int64_t w = 0; w < words; w += kLanes) {
    Vec block[kLanes];
    for (int64_t j = 0; j < kLanes; j++)
      block[j] = j < columns ? P::along(begins[j] + w * P::values, K - w * P::values) : Vec{};
    transpose(block);
    for (int64_t j = 0; j < std::min<int64_t>(kLanes, words - w); j++) store(to + (w + j) * width, block[j]);
  }
}

// `width` columns of b[K, N] from n on, words [first, first + words): [words, width], zeros beyond its ends.
template <typename T>
inline void pack_strip(float *to, const Matrix &b, int64_t K, int64_t N, int64_t n, int64_t first, int64_t words,
                       int64_t width = kStrip) {
  typedef Packing<T> P;
  const T *data = static_cast<const T *>(b.data);
  for (int64_t v = 0; v < width; v += kLanes) {
    const int64_t columns = std::min<int64_t>(kLanes, N - n - v);
    if (columns <= 0) {
      for (int64_t w = 0; w < words; w++) store(to + w * width + v, Vec{});
    } else if (b.column == 1) {
      for (int64_t w = 0; w < words; w++) {
        const int64_t k = (first + w) * P::values;
        const T *from = data + k * b.row + n + v;
        store(to + w * width + v, P::across(from, k + 1 < K ? from + b.row : nullptr, columns));
      }
    } else {
      const T *begins[kLanes];
      for (int64_t j = 0; j < columns; j++) begins[j] = data + (n + v + j) * b.column + first * P::values;
      pack_columns(to + v, width, begins, columns, K - first * P::values, words);
    }
  }
}

// run(block, its first and last column in the strip from column n on) for the blocks that reach into it.
template <typename Run>
inline void blocks_of(const LowRankTerm &term, int64_t n, const Run &run) {
  for (int64_t i = 0; i < term.count; i++) {
    const nt_lora_block &block = term.blocks[i];
    const int64_t from = std::max(n, block.row), end = std::min(n + kStrip, block.row + block.rows);
    if (from < end) run(block, from, end);
  }
}

// The words of the low-rank term that are not all zeros in the strip from column n on.
template <typename T>
inline Range term_words(const LowRankTerm &term, int64_t n) {
  typedef Packing<T> P;
  if (term.whole != nullptr) return {0, P::words(term.rank)};
  Range used = {INT64_MAX, 0};
  blocks_of(term, n, [&](const nt_lora_block &block, int64_t, int64_t) {
    used.begin = std::min(used.begin, block.column / P::values);
    used.end = std::max(used.end, P::words(block.column + term.rank));
  });
  return used;
}

// The strip of the low-rank term from column n on: [extra, kStrip].
template <typename T>
inline void pack_low_rank(float *to, const LowRankTerm &term, int64_t extra, int64_t n, int64_t N) {
  typedef Packing<T> P;
  if (term.whole != nullptr) return pack_strip<T>(to, {term.whole, 0, N, 1}, term.rank, N, n, 0, extra);
  memset(to, 0, size_t(extra * kStrip) * sizeof(float));
  blocks_of(term, n, [&](const nt_lora_block &block, int64_t from, int64_t end) {
    for (int64_t j = from; j < end; j++) {
      const T *b = static_cast<const T *>(block.b) + (j - block.row) * term.rank;
      for (int64_t k = block.column; k < block.column + term.rank; k++) {
        float *word = to + k / P::values * kStrip + j - n;
        if constexpr (P::pairs)
          reinterpret_cast<T *>(word)[k % 2] = b[k - block.column];
        else
          *word = to_float(b[k - block.column]);
      }
    }
  });
}

}  // namespace nt
