// The innermost loop of narrow_product and outer_product: a tile of the result, in registers.
#pragma once
#include "word_block.h"

namespace nt {

// What is read next, rows of `bytes` bytes each, asked for a little at a time while something else is computed.
class Ahead {
 public:
  // All of it in `times` calls of ask().
  Ahead(const void *data, int64_t distance, int64_t rows, int64_t bytes, int64_t times)
      : row_(static_cast<const char *>(data)), distance_(distance), rows_(rows), bytes_(bytes),
        lines_(ceil_div(rows * ceil_div(bytes, kLine), times)) {}

  void ask() {
    for (int64_t i = 0; i < lines_ && rows_ > 0; i++) {
      __builtin_prefetch(row_ + byte_, 0, 3);
      byte_ += kLine;
      if (byte_ < bytes_) continue;
      byte_ = 0;
      row_ += distance_;
      rows_--;
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  const char *row_;
  int64_t distance_, rows_, bytes_, lines_, byte_ = 0;
};

// sums[M, N vectors], rows ld apart, (+)= Σ_j left(m, j) · right[j, N vectors] over words (word_tiles.h), where left(m, j)
// is left[m · Row + j · Word]: distances are known to the compiler.
template <bool Pairs, int M, int N, int64_t Row, int64_t Word>
__attribute__((noinline)) void tile_sums(int64_t words, const float *left, const float *right, float *sums, int64_t ld,
                                         bool add, Ahead &next) {
  Ahead ahead = next;
  WordBlock<Pairs, M, N> block;
  block.begin(sums, ld, add);
  block.multiply(words, left, Row, Word, right, N * kLanes, [&] { ahead.ask(); });
  block.end(sums, ld);
  next = ahead;
}

}  // namespace nt
