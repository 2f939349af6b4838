// skinny.h's product of many rows with a narrow matrix: the narrow side lies along the vectors, whose values are used for
// as many rows as fit into registers.
#include <algorithm>

#include "narrow_tiles.h"
#include "skinny.h"
#include "skinny_amx.h"
#include "word_packing.h"

namespace nt {
namespace {

constexpr int64_t kDeepest = 256;             // words of x's rows that are copied to the L1 cache at a time
constexpr int64_t kStride = kDeepest + 16;    // of the copies: an odd number of cache lines
constexpr int64_t kRows = kAccumulators;      // of x, copied together
constexpr int64_t kFew = kLanes == 16 ? 8 : 4;  // rows, of one vector each, that hide the latency of an addition
constexpr int64_t kMostColumns = 256;         // of the result, for one copy of x
constexpr int kWidest = kLanes == 16 ? 4 : 3;  // vectors of a tile

// How q's R columns are multiplied: by groups of a few vectors.
struct Plan {
  struct Group {
    int64_t column;
    int vectors;
  };
  int64_t R, K, words, deep;  // words of a sum, and of it at a time
  int groups = 0;
  int64_t lines;  // to ask for with kUnrolled words
  Group group[ceil_div(kMostColumns / kLanes, kWidest)];

  Plan(int64_t columns, int64_t k, int64_t value_words, int64_t word_bytes)
      : R(columns), K(k), words(value_words), deep(round_up(ceil_div(words, ceil_div(words, kDeepest)), kLanes)) {
    const int64_t vectors = ceil_div(R, kLanes), several = ceil_div(vectors, kWidest);
    for (int64_t v = 0; v < vectors; groups++) {
      group[groups] = {v * kLanes, int(ceil_div(vectors - v, several - groups))};
      v += group[groups].vectors;
    }
    lines = ceil_div(kUnrolled * word_bytes * kRows, 64 * vectors);
  }
};

// sums[rows, ld] (+)= left[rows, words] · right[words, N vectors]; the rows are a multiple of kFew.
template <bool Pairs, int N>
void multiply(int64_t rows, int64_t words, const float *left, const float *right, float *sums, int64_t ld, bool add,
              Ahead &next) {
  constexpr int64_t kMany = kRows / N, kSome = std::max<int64_t>(kFew / N, 1);
  while (rows > 0) {
    const int64_t own = rows >= kMany ? kMany : kSome;
    auto *call = own == kMany ? tile_sums<Pairs, kMany, N, kStride, 1> : tile_sums<Pairs, kSome, N, kStride, 1>;
    call(words, left, right, sums, ld, add, next);
    rows -= own, left += own * kStride, sums += own * ld;
  }
}

template <bool Pairs, int N = kWidest>
void multiply(int vectors, int64_t rows, int64_t words, const float *left, const float *right, float *sums, int64_t ld,
              bool add, Ahead &next) {
  if (vectors == N) return multiply<Pairs, N>(rows, words, left, right, sums, ld, add, next);
  if constexpr (N > 1) multiply<Pairs, N - 1>(vectors, rows, words, left, right, sums, ld, add, next);
}

// c[rows, R] = scale · x[rows, K] · q, at most kRows of it; right holds q, group by group.
template <typename T>
void narrow_rows(const Plan &plan, T *c, int64_t ldc, const T *x, int64_t ldx, const float *right, float scale,
                 int64_t rows) {
  typedef Packing<T> P;
  alignas(64) float left[kRows * kStride], sums[kRows * kMostColumns];
  const int64_t height = round_up(rows, kFew), width = round_up(plan.R, kLanes);
  for (int64_t k = 0; k < plan.words; k += plan.deep) {
    const int64_t some = std::min(plan.deep, plan.words - k);
    pack_left<T>(left, kStride, as_stored(x, NT_F32, ldx), 0, rows, k, some, plan.K);
    for (int64_t i = rows; i < height; i++) memset(left + i * kStride, 0, size_t(some) * sizeof(float));
    // The next words of these rows, or the first of the next ones.
    const T *after = k + some < plan.words ? x + (k + some) * P::values : x + kRows * ldx;
    Ahead next(after, ldx * int64_t(sizeof(T)), rows, plan.deep * P::values * int64_t(sizeof(T)), plan.lines);
    for (int i = 0; i < plan.groups; i++) {
      const auto [column, vectors] = plan.group[i];
      multiply<P::pairs>(vectors, height, some, left, right + column * plan.words + k * vectors * kLanes, sums + column,
                         width, k > 0, next);
    }
  }
  for (int64_t i = 0; i < rows; i++) {
    T *to = c + i * ldc;
    int64_t r = 0;
    for (; r + kLanes <= plan.R; r += kLanes) store(to + r, splat(scale) * load(sums + i * width + r));
    if (r < plan.R) store_part(to + r, splat(scale) * load(sums + i * width + r), plan.R - r);
  }
}

template <typename T>
int32_t narrow_product(nt_context *context, T *c, int64_t ldc, const T *x, int64_t ldx, const Matrix &q, float scale,
                       int64_t rows, int64_t R, int64_t K) {
  typedef Packing<T> P;
  const Plan plan(R, K, P::words(K), P::values * int64_t(sizeof(T)));
  auto *packed = static_cast<float *>(packed_memory(plan.words * round_up(R, kLanes) * int64_t(sizeof(float))));
  if (packed == nullptr) return fail(NT_OUT_OF_MEMORY, "lora: no memory to pack %lld columns", (long long)R);
  parallel_for(context->threads, ceil_div(plan.words, kLanes), 1 + (1 << 10) / R, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kLanes, last = std::min(end * kLanes, plan.words);
    for (int i = 0; i < plan.groups; i++) {
      const int64_t column = plan.group[i].column, width = plan.group[i].vectors * kLanes;
      pack_strip<T>(packed + column * plan.words + first * width, q, K, R, column, first, last - first, width);
    }
  });
  parallel_for(context->threads, ceil_div(rows, kRows), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin * kRows; t < std::min(end * kRows, rows); t += kRows)
      narrow_rows(plan, c + t * ldc, ldc, x + t * ldx, ldx, packed, scale, std::min(kRows, rows - t));
  });
  return NT_OK;
}

}  // namespace

int32_t narrow_product(nt_context *context, int32_t dtype, void *c, int64_t ldc, const void *x, int64_t ldx,
                       const Matrix &q, float scale, int64_t T, int64_t R, int64_t K) {
  if (T <= 0 || R <= 0 || K <= 0) return NT_OK;
#ifdef __AMX_BF16__
  if (amx_takes(context, dtype) && K % 32 == 0 && ldx % 2 == 0)
    return narrow_product_amx(context, static_cast<bf16 *>(c), ldc, static_cast<const bf16 *>(x), ldx, q, scale, T, R, K);
#endif
  for (int64_t r = 0; r < R; r += kMostColumns) {
    const int64_t some = std::min(kMostColumns, R - r);
    const Matrix own = {element(q, 0, r), q.dtype, q.row, q.column};
    void *to = columns_from(c, dtype, r);
    const int32_t status =
        dtype == NT_F32 ? narrow_product(context, static_cast<float *>(to), ldc, static_cast<const float *>(x), ldx, own,
                                         scale, T, some, K)
                        : narrow_product(context, static_cast<bf16 *>(to), ldc, static_cast<const bf16 *>(x), ldx, own,
                                         scale, T, some, K);
    if (status != NT_OK) return status;
  }
  return NT_OK;
}

}  // namespace nt
