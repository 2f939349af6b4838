#include "skinny_amx.h"

#ifdef __AMX_BF16__

#include <string.h>

#include <algorithm>

#include "amx_words.h"
#include "skinny.h"

namespace nt {
namespace {

constexpr int64_t kCached = 256;               // rows of narrow_product that stay in a core's cache
constexpr int64_t kOuterColumns = 2 * kBlock;  // packed together: whole cache lines of rows pages apart
constexpr int64_t kAhead = 16;                 // rows that are prefetched ahead

// Words that pack_right writes.
int64_t right_words(int64_t K, int64_t N) { return round_up(K, kStep) / kPair * round_up(N, kBlock); }

// words[panels of kBlock columns, pairs of K, kBlock] = q[K, N] in pairs along K, zeros up to whole tiles.
void pack_right(int threads, float *words, const Matrix &q, int64_t K, int64_t N) {
  const int64_t tiles = round_up(N, kBlock) / kEdge, panel = round_up(K, kStep) / kPair * kBlock;
  parallel_for(threads, tiles, 8, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin * kEdge; n < end * kEdge; n += kEdge)
      for (int64_t k = 0; k < K; k += kStep) {
        float *to = words + n / kBlock * panel + k / kPair * kBlock + n % kBlock;
        Vec block[kEdge];
        right_tile(block, q, k, n, K, N);
        for (int64_t j = 0; j < kEdge; j++) store(to + j * kBlock, block[j]);
      }
  });
}

// C[rows, columns] = or += scale · A·B for at most kBlock of each. A and B, a panel, hold words.
template <typename C>
inline void block(C *c, int64_t ldc, const void *a, int64_t lda, const float *b, int64_t pairs, int64_t rows,
                  int64_t columns, bool accumulate, float scale) {
  alignas(64) float sums[kBlock * kBlock];
  amx_product(rows > kEdge, columns > kEdge, 0, pairs, a, lda, b, kBlock, sums, kBlock, false);
  put(c, ldc, sums, kBlock, rows, std::min(kBlock, columns), accumulate, scale);
}

template <typename C>
int32_t rank_product(nt_context *context, C *c, int64_t ldc, const bf16 *p, int64_t ldp, const Matrix &q, int64_t T,
                     int64_t N, int64_t r, bool accumulate) {
  const int64_t wide = round_up(r, kStep), right = right_words(r, N), left = kBlock * wide / kPair;
  auto *words = static_cast<float *>(packed_memory((right + context->threads * left) * 4));
  if (words == nullptr) return fail(NT_OUT_OF_MEMORY, "linear: no memory to pack a rank-%lld product", (long long)r);
  pack_right(context->threads, words, q, r, N);
  const int64_t blocks = ceil_div(T, kBlock);
  on_threads(int(std::min<int64_t>(blocks, context->threads)), [&](int thread, int threads) {
    const AmxTiles tiles;
    const Range range = piece(blocks, thread, threads);
    auto *rows = reinterpret_cast<bf16 *>(words + right + thread * left);  // [kBlock, wide]
    memset(rows, 0, size_t(left) * 4);
    for (int64_t t = range.begin * kBlock; t < std::min(range.end * kBlock, T); t += kBlock) {
      const int64_t height = std::min(kBlock, T - t);
      for (int64_t i = 0; i < height; i++) memcpy(rows + i * wide, p + (t + i) * ldp, size_t(r) * sizeof(bf16));
      for (int64_t n = 0; n < N; n += kBlock)
        block(c + t * ldc + n, ldc, rows, wide / kPair, words + n * wide / kPair, wide / kPair, height, N - n,
              accumulate, 1.0f);
    }
  });
  return NT_OK;
}

// words[pairs of rows, kOuterColumns] = q[rows, columns], zeros beyond its ends. In every kBlock columns those that the
// instructions put together side by side come first, as column_of tells.
inline void pack_row_pairs(float *words, const bf16 *q, int64_t ldq, int64_t rows, int64_t steps, int64_t columns) {
  for (int64_t t = 0; t < steps; t += kPair, q += kPair * ldq, words += kOuterColumns)
    for (int64_t n = 0; n < columns; n += kBlock) {
      const __mmask32 mask = first(columns - n);
      const __m512i row = t < rows ? _mm512_maskz_loadu_epi16(mask, q + n) : __m512i{};
      const __m512i next = t + 1 < rows ? _mm512_maskz_loadu_epi16(mask, q + ldq + n) : __m512i{};
      _mm_prefetch(reinterpret_cast<const char *>(q + kAhead * ldq + n), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char *>(q + (kAhead + 1) * ldq + n), _MM_HINT_T0);
      store(words + n, (Vec)_mm512_unpacklo_epi16(row, next));
      store(words + n + kEdge, (Vec)_mm512_unpackhi_epi16(row, next));
    }
}
// Where word i of kBlock comes from.
constexpr int64_t column_of(int64_t i) { return i % kEdge / 4 * 8 + i / kEdge * 4 + i % 4; }

// sums[rows, kBlock], whose columns are as column_of tells, in their order.
inline void put_in_order(float *sums, int64_t rows) {
  const __m512i left = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
  const __m512i right = _mm512_add_epi32(left, _mm512_set1_epi32(8));
  for (int64_t i = 0; i < rows; i++, sums += kBlock) {
    const __m512 low = _mm512_loadu_ps(sums), high = _mm512_loadu_ps(sums + kEdge);
    _mm512_storeu_ps(sums, _mm512_permutex2var_ps(low, left, high));
    _mm512_storeu_ps(sums + kEdge, _mm512_permutex2var_ps(low, right, high));
  }
}

// c[columns, rows], rows ldc apart, += sums[rows, kBlock]ᵀ, whose columns are as column_of tells.
inline void add_transposed(float *c, int64_t ldc, const float *sums, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r += kEdge) {
    const __mmask16 mask = __mmask16(first(std::min(rows - r, kEdge)));
    for (int64_t n = 0; n < kBlock; n += kEdge) {
      Vec square[kEdge];
      for (int64_t j = 0; j < kEdge; j++) square[j] = load(sums + (r + j) * kBlock + n);
      transpose(square);
      for (int64_t j = 0; j < kEdge; j++) {
        if (column_of(n + j) >= columns) continue;
        float *at = c + column_of(n + j) * ldc + r;
        _mm512_mask_storeu_ps(at, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), (__m512)square[j]));
      }
    }
  }
}

}  // namespace

int32_t rank_product_amx(nt_context *context, void *c, int32_t c_dtype, int64_t ldc, const bf16 *p, int64_t ldp,
                         const Matrix &q, int64_t T, int64_t N, int64_t r, bool accumulate) {
  if (c_dtype == NT_F32) return rank_product(context, static_cast<float *>(c), ldc, p, ldp, q, T, N, r, accumulate);
  return rank_product(context, static_cast<bf16 *>(c), ldc, p, ldp, q, T, N, r, accumulate);
}

int32_t narrow_product_amx(nt_context *context, bf16 *c, int64_t ldc, const bf16 *x, int64_t ldx, const Matrix &q,
                           float scale, int64_t T, int64_t R, int64_t K) {
  const int64_t right = right_words(K, R), rest = T % kEdge, pairs = K / kPair;
  auto *words = static_cast<float *>(packed_memory((right + kEdge * pairs) * 4));
  if (words == nullptr) return fail(NT_OUT_OF_MEMORY, "lora: no memory to pack %lld columns", (long long)R);
  pack_right(context->threads, words, q, K, R);
  const int64_t blocks = T / kEdge;
  on_threads(int(std::min<int64_t>(ceil_div(T, kEdge), context->threads)), [&](int thread, int threads) {
    const AmxTiles tiles;
    const Range range = piece(blocks, thread, threads);
    const int64_t end = range.end * kEdge;
    for (int64_t first = range.begin * kEdge; first < end; first += kCached)
      for (int64_t n = 0; n < R; n += kBlock)
        for (int64_t t = first, last = std::min(first + kCached, end); t < last; t += kBlock)
          block(c + t * ldc + n, ldc, x + t * ldx, ldx / kPair, words + n * pairs, pairs, std::min(kBlock, last - t),
                R - n, false, scale);
    if (rest == 0 || thread != threads - 1) return;
    // Rows too few for a tile, and zeros behind them.
    auto *rows = reinterpret_cast<bf16 *>(words + right);
    memset(rows, 0, size_t(kEdge * K) * sizeof(bf16));
    for (int64_t i = 0; i < rest; i++) memcpy(rows + i * K, x + (T - rest + i) * ldx, size_t(K) * sizeof(bf16));
    for (int64_t n = 0; n < R; n += kBlock)
      block(c + (T - rest) * ldc + n, ldc, rows, pairs, words + n * pairs, pairs, rest, R - n, false, scale);
  });
  return NT_OK;
}

int32_t outer_product_amx(nt_context *context, float *c, bool c_transposed, const bf16 *p, int64_t ldp, const bf16 *q,
                          int64_t ldq, int64_t T, int64_t R, int64_t N) {
  const int64_t lda = round_up(T, kStep) / kPair, left = round_up(R, kEdge) * lda;
  const int64_t pack = kAmxOuterSteps / kPair * kOuterColumns;
  auto *words = static_cast<float *>(packed_memory((left + context->threads * pack) * 4));
  if (words == nullptr) return fail(NT_OUT_OF_MEMORY, "lora: no memory to pack %lld rows", (long long)T);
  parallel_for(context->threads, lda / kEdge, 8, [&](int64_t begin, int64_t end) {
    for (int64_t w = begin * kEdge; w < end * kEdge; w += kEdge)
      for (int64_t i = 0; i < R; i += kEdge) {
        Vec block[kEdge];
        interleave(block, R - i, [&](int64_t j) { return 2 * w + j < T ? p + (2 * w + j) * ldp + i : nullptr; });
        transpose(block);
        for (int64_t j = 0; j < kEdge; j++) store(words + (i + j) * lda + w, block[j]);
      }
  });
  const int64_t panels = ceil_div(N, kBlock);
  on_threads(int(std::min<int64_t>(panels, context->threads)), [&](int thread, int threads) {
    const AmxTiles tiles;
    const Range range = piece(panels, thread, threads);
    float *right = words + left + thread * pack;
    alignas(64) float sums[kBlock * kBlock];
    const int64_t last = std::min(range.end * kBlock, N);
    for (int64_t t = 0; t < T; t += kAmxOuterSteps)
      for (int64_t n = range.begin * kBlock; n < last; n += kOuterColumns) {
        const int64_t steps = std::min(kAmxOuterSteps, round_up(T - t, kStep));
        const int64_t width = std::min(kOuterColumns, last - n);
        pack_row_pairs(right, q + t * ldq + n, ldq, T - t, steps, width);
        for (int64_t r = 0; r < R; r += kBlock)
          for (int64_t j = 0; j < width; j += kBlock) {
            amx_product(R - r > kEdge, true, 0, steps / kPair, words + r * lda + t / kPair, lda, right + j,
                        kOuterColumns, sums, kBlock, false);
            const int64_t rows = std::min(kBlock, R - r), columns = std::min(kBlock, width - j);
            if (c_transposed) {
              add_transposed(c + (n + j) * R + r, R, sums, rows, columns);
            } else {
              put_in_order(sums, rows);
              put(c + r * N + n + j, N, sums, kBlock, rows, columns, true, 1.0f);
            }
          }
      }
  });
  return NT_OK;
}

}  // namespace nt

#endif
