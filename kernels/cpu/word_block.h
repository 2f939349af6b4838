// A block of a product's result in registers: what every product of words (word_tiles.h) by vectors comes down to.
#pragma once
#include "word_tiles.h"

namespace nt {

constexpr int64_t kUnrolled = 4;  // words that are multiplied between two calls of `ask`

// M rows of N vectors. Distances that are constants where these are called are so to the compiler, too: a tenth faster.
template <bool Pairs, int M, int N>
struct WordBlock {
  Vec sums[M][N];

  __attribute__((always_inline)) void begin(const float *c, int64_t ldc, bool add) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int n = 0; n < N; n++) sums[m][n] = add ? load(c + m * ldc + n * kLanes) : Vec{};
  }

  __attribute__((always_inline)) void end(float *c, int64_t ldc) const {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int n = 0; n < N; n++) store(c + m * ldc + n * kLanes, sums[m][n]);
  }

  // += Σ_j a(m, j) · b[j, N vectors], where a(m, j) = a[m · row + j · word] and rows of b are ldb apart. ask() may
  // prefetch what is needed next.
  template <typename Ask>
  __attribute__((always_inline)) void multiply(int64_t words, const float *a, int64_t row, int64_t word, const float *b,
                                               int64_t ldb, const Ask &ask) {
    const auto step = [&](int64_t j) __attribute__((always_inline)) {
      Vec right[N];
#pragma unroll
      for (int n = 0; n < N; n++) right[n] = load(b + j * ldb + n * kLanes);
#pragma unroll
      for (int m = 0; m < M; m++) {
        const Vec left = splat(a[m * row + j * word]);
#pragma unroll
        for (int n = 0; n < N; n++) sums[m][n] = multiply_add<Pairs>(left, right[n], sums[m][n]);
      }
    };
    for (; words >= kUnrolled; words -= kUnrolled, a += kUnrolled * word, b += kUnrolled * ldb) {
      ask();
#pragma unroll
      for (int64_t j = 0; j < kUnrolled; j++) step(j);
    }
    for (; words > 0; words--, a += word, b += ldb) step(0);
  }
};

}  // namespace nt
