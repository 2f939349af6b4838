// c[R, N] += pᵀ[R, rows] · q[rows, N] for a narrow R: q's columns lie along the vectors, and what is read of them is copied
// once, as floats, for all of p's columns.
#pragma once
#include <algorithm>

#include "narrow_tiles.h"
#include "parallel.h"
#include "word_packing.h"

namespace nt {

constexpr int64_t kOuterWords = 256;                 // summed between visits to c
constexpr int64_t kOuterTile = 3 * kLanes;           // columns of a tile,
constexpr int64_t kOuterColumns = 2 * kOuterTile;    // and of what is copied together: whole cache lines of q's rows

template <typename T>
class OuterBlocks {
 public:
  OuterBlocks(const T *p, int64_t ldp, int64_t rows, int64_t R)
      : p_(p), ldp_(ldp), rows_(rows), R_(R), words_(P::words(rows)) {}

  int64_t words() const { return words_; }
  // Of the copies of p and of q.
  int64_t left_words() const { return round_up(R_, kRows) * words_; }
  static constexpr int64_t right_words() { return kOuterColumns * kCopied; }
  // How often add() asks for what is read next.
  int64_t asks(int64_t columns, int64_t words) const {
    return std::max<int64_t>(1, ceil_div(R_, kRows) * ceil_div(columns, kOuterTile) * (words / kUnrolled));
  }

  // left[blocks of kRows columns][words, kRows] = p, zeros beyond R, by all threads.
  void pack(int threads, float *left) const {
    const int64_t blocks = ceil_div(R_, kRows);
    parallel_for(threads, words_, 64, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; k++)
        for (int64_t r = 0; r < blocks * kRows; r += kLanes) {
          const T *from = p_ + k * P::values * ldp_ + r;
          float lanes[kLanes];
          store(lanes, r < R_ ? P::across(from, has_next(k) ? from + ldp_ : nullptr, R_ - r) : Vec{});
          for (int64_t i = 0; i < kLanes && r + i < blocks * kRows; i += kRows)
            memcpy(left + ((r + i) * words_ + k * kRows), lanes + i, kRows * sizeof(float));
        }
    });
  }

  // c[R, columns], rows ldc apart, or its transpose += pᵀ·q over at most kOuterWords words, from k on, and kOuterColumns
  // columns, which q begins with.
  void add(float *c, int64_t ldc, bool c_transposed, const T *q, int64_t ldq, const float *left, float *right, int64_t k,
           int64_t words, int64_t columns, Ahead &next) const {
    alignas(64) float sums[kOuterColumns * kMostRows];
    for (int64_t r = 0; r < R_; r += kMostRows) {
      const int64_t height = std::min(kMostRows, R_ - r);
      for (int64_t w = 0; w < words; w += kCopied) {
        const int64_t some = std::min(kCopied, words - w);
        pack_right(right, q, ldq, k + w, some, columns);
        for (int64_t j = 0; j < columns; j += kOuterTile)
          for (int64_t i = 0; i < height; i += kRows)
            tile_sums<P::pairs, kRows, kOuterTile / kLanes, 1, kRows>(
                some, left + (r + i) * words_ + (k + w) * kRows, right + j * some, sums + j * kMostRows + i * kOuterTile,
                kOuterTile, w > 0, next);
      }
      for (int64_t j = 0; j < columns; j += kOuterTile) {
        const int64_t width = std::min(kOuterTile, columns - j);
        if (c_transposed)
          put_transposed(c + j * ldc + r, ldc, sums + j * kMostRows, height, width);
        else
          put(c + r * ldc + j, ldc, sums + j * kMostRows, height, width);
      }
    }
  }

 private:
  typedef Packing<T> P;
  static constexpr int kRows = kLanes == 16 ? 8 : 4;  // of a tile
  static constexpr int64_t kCopied = 64;              // words of q that are copied to the L1 cache at a time
  static constexpr int64_t kMostRows = 64;            // of c, summed before they are added

  const T *p_;
  const int64_t ldp_, rows_, R_, words_;

  bool has_next(int64_t k) const { return k * P::values + 1 < rows_; }

  // right[tiles][words, kOuterTile] = q, zeros beyond its columns.
  void pack_right(float *right, const T *q, int64_t ldq, int64_t k, int64_t words, int64_t columns) const {
    const int64_t whole = columns / kOuterTile;
    for (int64_t w = 0; w < words; w++) {
      const T *row = q + (k + w) * P::values * ldq, *below = has_next(k + w) ? row + ldq : nullptr;
      float *to = right + w * kOuterTile;
      for (int64_t tile = 0; tile < whole; tile++, to += words * kOuterTile)
        for (int64_t v = 0; v < kOuterTile; v += kLanes) {
          const int64_t j = tile * kOuterTile + v;
          store(to + v, P::across(row + j, below == nullptr ? nullptr : below + j));
        }
      for (int64_t j = whole * kOuterTile; whole * kOuterTile < columns && j < (whole + 1) * kOuterTile; j += kLanes)
        store(to + j - whole * kOuterTile,
              j < columns ? P::across(row + j, below == nullptr ? nullptr : below + j, columns - j) : Vec{});
    }
  }

  static void add_vector(float *c, Vec sum, int64_t n) {
    if (n >= kLanes)
      store(c, load(c) + sum);
    else
      store_part(c, load_part(c, n) + sum, n);
  }

  // c[rows, columns] += sums[rows, kOuterTile].
  static void put(float *c, int64_t ldc, const float *sums, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < columns; j += kLanes)
        add_vector(c + i * ldc + j, load(sums + i * kOuterTile + j), columns - j);
  }

  // c[columns, rows] += sums[rows, kOuterTile]ᵀ.
  static void put_transposed(float *c, int64_t ldc, const float *sums, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i += kLanes)
      for (int64_t j = 0; j < columns; j += kLanes) {
        Vec square[kLanes];
        for (int64_t k = 0; k < kLanes; k++) square[k] = i + k < rows ? load(sums + (i + k) * kOuterTile + j) : Vec{};
        transpose(square);
        for (int64_t k = 0; k < std::min<int64_t>(kLanes, columns - j); k++)
          add_vector(c + (j + k) * ldc + i, square[k], rows - i);
      }
  }
};

}  // namespace nt
