// c[rows, R] = x[rows, K] · q[K, R] for a narrow R, which lies along the vectors: what is read of q is used for as many
// rows as fit into registers.
#pragma once
#include <algorithm>

#include "narrow_tiles.h"
#include "parallel.h"
#include "word_packing.h"

namespace nt {

constexpr int64_t kNarrowRows = kAccumulators;  // of x, copied together to the L1 cache,
constexpr int64_t kNarrowWords = 128;           // and the most words of each
constexpr int64_t kNarrowColumns = 256;         // of q, at most

template <typename T>
class NarrowBlocks {
 public:
  NarrowBlocks(const Matrix &q, int64_t K, int64_t R) : q_(q), K_(K), R_(R), words_(P::words(K)) {
    const int64_t vectors = ceil_div(R, kLanes), several = ceil_div(vectors, kWidest);
    for (int64_t v = 0; v < vectors; groups_++) {
      group_[groups_] = {v * kLanes, int(ceil_div(vectors - v, several - groups_))};
      v += group_[groups_].vectors;
    }
  }

  int64_t words() const { return words_; }
  // How many of these to take at a time.
  int64_t deep() const { return round_up(ceil_div(words_, ceil_div(words_, kNarrowWords)), kLanes); }
  // Columns of sums: R, and what fills the last vector.
  int64_t width() const { return round_up(R_, kLanes); }
  // How often sum() asks for what is read next.
  int64_t asks(int64_t rows, int64_t words) const {
    return std::max<int64_t>(1, rows * ceil_div(R_, kLanes) / kNarrowRows * words / kUnrolled);
  }

  // right[groups of vectors][words, vectors] = q, by all threads.
  void pack(int threads, float *right) const {
    parallel_for(threads, ceil_div(words_, kLanes), 1 + (1 << 10) / R_, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kLanes, last = std::min(end * kLanes, words_);
      for (int i = 0; i < groups_; i++) {
        const int64_t own = group_[i].vectors * kLanes;
        pack_strip<T>(right + group_[i].column * words_ + first * own, q_, K_, R_, group_[i].column, first, last - first,
                      own);
      }
    });
  }

  // sums[rows, width()] (k > 0: +)= words [k, k + words) of x's rows · q. Rows of sums up to a whole kNarrowRows may be
  // written.
  void sum(float *sums, const T *x, int64_t ldx, const float *right, int64_t rows, int64_t k, int64_t words,
           Ahead &next) const {
    alignas(64) float left[kNarrowRows * kStride];
    for (int64_t t = 0; t < rows; t += kNarrowRows) {
      const int64_t some = std::min(kNarrowRows, rows - t), height = round_up(some, kFew);
      pack_left<T>(left, kStride, {x, 0, ldx, 1}, t, some, k, words, K_);
      for (int64_t i = some; i < height; i++) memset(left + i * kStride, 0, size_t(words) * sizeof(float));
      for (int i = 0; i < groups_; i++) {
        const Group &group = group_[i];
        multiply(group.vectors, height, words, left, right + group.column * words_ + k * group.vectors * kLanes,
                 sums + t * width() + group.column, k > 0, next);
      }
    }
  }

  // c[rows, R] = scale · sums
  void put(T *c, int64_t ldc, const float *sums, float scale, int64_t rows) const {
    for (int64_t i = 0; i < rows; i++, c += ldc, sums += width()) {
      int64_t r = 0;
      for (; r + kLanes <= R_; r += kLanes) store(c + r, splat(scale) * load(sums + r));
      if (r < R_) store_part(c + r, splat(scale) * load(sums + r), R_ - r);
    }
  }

 private:
  typedef Packing<T> P;
  static constexpr int64_t kStride = kNarrowWords + 16;  // of copies: an odd number of cache lines
  static constexpr int64_t kFew = kLanes == 16 ? 8 : 4;  // rows whose additions hide each other's latency
  static constexpr int kWidest = kLanes == 16 ? 4 : 2;   // vectors of a tile

  // Columns of q that are multiplied together.
  struct Group {
    int64_t column;
    int vectors;
  };

  const Matrix q_;
  const int64_t K_, R_, words_;
  int groups_ = 0;
  Group group_[ceil_div(kNarrowColumns / kLanes, kWidest)];

  template <int N = kWidest>
  void multiply(int vectors, int64_t rows, int64_t words, const float *left, const float *right, float *sums, bool add,
                Ahead &next) const {
    if constexpr (N > 1)
      if (vectors < N) return multiply<N - 1>(vectors, rows, words, left, right, sums, add, next);
    constexpr int64_t kMany = kNarrowRows / N, kSome = std::max<int64_t>(kFew / N, 1);
    while (rows > 0) {
      const int64_t own = rows >= kMany ? kMany : kSome;
      auto *call = own == kMany ? tile_sums<P::pairs, kMany, N, kStride, 1> : tile_sums<P::pairs, kSome, N, kStride, 1>;
      call(words, left, right, sums, width(), add, next);
      rows -= own, left += own * kStride, sums += own * width();
    }
  }
};

}  // namespace nt
