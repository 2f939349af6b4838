// c[R, N] += pᵀ[R, rows] · q[rows, N] for a narrow R: q's columns lie along the vectors, and what is read of them is copied
// once, as floats, for all of p's columns.
#pragma once
#include <algorithm>

#include "narrow_tiles.h"
#include "parallel.h"
#include "word_packing.h"

namespace nt {

constexpr int64_t kOuterWords = 256;  // summed between visits to c
// Vectors of a tile. Of 16 registers, 12 sums in rows of three and what they are multiplied with take them all, and the
// compiler keeps sums in memory.
constexpr int kOuterVectors = kLanes == 16 ? 3 : 2;
constexpr int64_t kOuterTile = kOuterVectors * kLanes;  // columns of a tile,
constexpr int64_t kOuterColumns = 2 * kOuterTile;       // and of what is copied together: whole cache lines of q's rows

template <typename T>
class OuterBlocks {
 public:
  OuterBlocks(const T *p, int64_t ldp, int64_t rows, int64_t R)
      : p_(p), ldp_(ldp), rows_(rows), R_(R), words_(P::words(rows)) {
    for_tiles(0, R, [&](int64_t, int64_t) { blocks_++; });
  }

  int64_t words() const { return words_; }
  // Of the copies of p and of q.
  int64_t left_words() const { return R_ * words_; }
  static constexpr int64_t right_words() { return kOuterColumns * kCopied; }
  // How often add() asks for what is read next.
  int64_t asks(int64_t columns, int64_t words) const {
    return std::max<int64_t>(1, blocks_ * ceil_div(columns, kOuterTile) * (words / kUnrolled));
  }

  // left[blocks of columns][words, columns of the block] = p, by all threads.
  void pack(int threads, float *left) const {
    parallel_for(threads, words_, 64, [&](int64_t begin, int64_t end) {
      for_tiles(0, R_, [&](int64_t r, int64_t height) {
        // Whole vectors, where there are any: the last one may begin before r.
        const int64_t first = std::max<int64_t>(0, std::min(r, R_ - kLanes));
        for (int64_t k = begin; k < end; k++) {
          const T *from = p_ + k * P::values * ldp_ + first;
          float lanes[kLanes];
          store(lanes, P::across(from, has_next(k) ? from + ldp_ : nullptr, R_ - first));
          memcpy(left + r * words_ + k * height, lanes + (r - first), size_t(height) * sizeof(float));
        }
      });
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
          for_tiles(r, r + height, [&](int64_t first, int64_t rows) {
            tile<kRows>(rows, some, left + first * words_ + (k + w) * rows, right + j * some,
                        sums + j * kMostRows + (first - r) * kOuterTile, w > 0, next);
          });
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
  static constexpr int kRows = kLanes == 16 ? 8 : 6;           // of a tile, at most
  static constexpr int64_t kCopied = kLanes == 16 ? 64 : 128;  // words of q that are copied to the L1 cache at a time
  static constexpr int64_t kMostRows = 64;                     // of c, summed before they are added

  const T *p_;
  const int64_t ldp_, rows_, R_, words_;
  int64_t blocks_ = 0;  // tiles on top of each other

  // run(r, rows) for the tiles that make up c's rows [begin, end): at most kRows each, as even as possible, none across a
  // multiple of kMostRows.
  template <typename Run>
  static void for_tiles(int64_t begin, int64_t end, const Run &run) {
    for (int64_t r = begin; r < end;) {
      const int64_t last = std::min(end, r / kMostRows * kMostRows + kMostRows);
      for (int64_t left = ceil_div(last - r, int64_t(kRows)); left > 0; left--) {
        const int64_t rows = ceil_div(last - r, left);
        run(r, rows);
        r += rows;
      }
    }
  }

  // sums[rows, kOuterTile] (+)= leftᵀ·right, left [words, rows].
  template <int M>
  static void tile(int64_t rows, int64_t words, const float *left, const float *right, float *sums, bool add, Ahead &next) {
    if constexpr (M > 1)
      if (rows < M) return tile<M - 1>(rows, words, left, right, sums, add, next);
    tile_sums<P::pairs, M, kOuterVectors, 1, M>(words, left, right, sums, kOuterTile, add, next);
  }

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
