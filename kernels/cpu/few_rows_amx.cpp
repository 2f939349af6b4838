// Products of few rows by AMX: a tile of sixteen rows of the weight, as they lie in memory, meets up to sixteen rows of a
// at once, so that as many take as long as one. c[t, j] is the sum over k in order, by pairs, whatever t is beside.
#include "amx.h"
#include "few_rows.h"
#include "matmul.h"
#include "parallel.h"
#include "product_result.h"
#include "scratch.h"

#ifdef __AMX_BF16__

#include <immintrin.h>
#include <string.h>

namespace nt {

namespace {

constexpr int64_t kDepth = 2 * kEdge;  // values along k that one instruction sums
constexpr int64_t kColumnTiles = 4;    // tiles of rows of a that meet a tile of the weight
static_assert(kEdge == kLanes, "a tile's rows make a vector of results");

struct Rows {
  const uint32_t *packed;  // [tiles of rows of a, steps, 16, columns]: pairs along k
  int64_t tiles, steps, columns;

  const uint32_t *at(int64_t tile, int64_t step) const { return packed + (tile * steps + step) * kEdge * columns; }
};

// Zeros beyond the last row and beyond k.
void pack(uint32_t *to, const bf16 *a, int64_t lda, int64_t T, int64_t in, const Rows &rows) {
  memset(to, 0, size_t(rows.tiles * rows.steps * kEdge * rows.columns) * 4);
  for (int64_t t = 0; t < T; t++) {
    uint32_t *column = to + t / rows.columns * rows.steps * kEdge * rows.columns + t % rows.columns;
    const bf16 *row = a + t * lda;
    for (int64_t k = 0; k + 1 < in; k += 2) {
      uint32_t pair;
      memcpy(&pair, row + k, 4);
      column[k / 2 * rows.columns] = pair;
    }
    if (in % 2 == 1) column[in / 2 * rows.columns] = row[in - 1].bits;
  }
}

// Sixteen rows of w, from `w` on, with `count` ≤ kColumnTiles tiles of rows of a: sums[tile][16, columns]. `ahead`: where
// the rows are that come next.
inline void block_sums(float *sums, const bf16 *w, const bf16 *ahead, int64_t in, const Rows &rows, int64_t first,
                       int64_t count) {
  const int64_t row_bytes = in * int64_t(sizeof(bf16)), column_bytes = rows.columns * 4;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const auto multiply = [&](int64_t step) {
    _tile_loadd(6, rows.at(first, step), column_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if (count == 1) return;
    _tile_loadd(6, rows.at(first + 1, step), column_bytes);
    _tile_dpbf16ps(1, 4, 6);
    if (count == 2) return;
    _tile_loadd(6, rows.at(first + 2, step), column_bytes);
    _tile_dpbf16ps(2, 4, 6);
    if (count == 3) return;
    _tile_loadd(6, rows.at(first + 3, step), column_bytes);
    _tile_dpbf16ps(3, 4, 6);
  };
  int64_t k = 0;
  for (; k + kDepth <= in; k += kDepth) {
    for (int64_t i = 0; i < kEdge; i++) __builtin_prefetch(ahead + i * in + k);
    _tile_loadd(4, w + k, row_bytes);
    multiply(k / kDepth);
  }
  if (k < in) {
    alignas(64) bf16 rest[kEdge][kDepth] = {};
    for (int64_t i = 0; i < kEdge; i++) memcpy(rest[i], w + i * in + k, size_t(in - k) * sizeof(bf16));
    _tile_loadd(4, rest, 64);
    multiply(k / kDepth);
  }
  const int64_t size = kEdge * rows.columns;
  _tile_stored(0, sums, column_bytes);
  if (count > 1) _tile_stored(1, sums + size, column_bytes);
  if (count > 2) _tile_stored(2, sums + 2 * size, column_bytes);
  if (count > 3) _tile_stored(3, sums + 3 * size, column_bytes);
}

// Columns begin … end of c, T rows. The last sixteen rows of w may begin among those before them.
// `expanded`: memory for sixteen rows of a weight in NF4, else null.
void columns_of(const ProductResult &result, const nt_weight *weight, void *expanded, const Rows &rows,
                int64_t T, int64_t begin, int64_t end) {
  const int64_t out = weight->out, in = weight->in;
  const AmxTiles tiles(rows.columns);
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i strides = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(int(rows.columns)));
  for (int64_t j = begin; j < end; j += kEdge) {
    const int64_t block = j + kEdge <= out ? j : out - kEdge, width = end - j < kEdge ? end - j : kEdge;
    const int64_t next = expanded == nullptr && block + 2 * kEdge <= out ? kEdge * in : 0;
    const auto *w = expanded == nullptr
                        ? static_cast<const bf16 *>(weight->data) + block * in
                        : static_cast<const bf16 *>(nf4_rows(expanded, weight, block, block + kEdge));
    const __mmask16 wanted = __mmask16((1u << width) - 1);
    for (int64_t tile = 0; tile < rows.tiles; tile += kColumnTiles) {
      const int64_t count = rows.tiles - tile < kColumnTiles ? rows.tiles - tile : kColumnTiles;
      alignas(64) float sums[kColumnTiles * kEdge * kEdge];
      block_sums(sums, w, w + next, in, rows, tile, count);
      const int64_t first = tile * rows.columns;
      const int64_t some = T - first < count * rows.columns ? T - first : count * rows.columns;
      for (int64_t t = 0; t < some; t++) {
        const float *column = sums + t / rows.columns * kEdge * rows.columns + (j - block) * rows.columns;
        result.put(first + t, j,
                   (Vec)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), wanted, strides, column + t % rows.columns, 4),
                   width);
      }
    }
  }
}

}  // namespace

bool amx_takes_rows(nt_context *context, const nt_weight *weight) {
  return weight->dtype == NT_BF16 && weight->out >= kEdge && has_amx(context);
}

int32_t amx_rows_product(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                         const void *a, int64_t lda, const float *bias, bool accumulate, int64_t T) {
  const int64_t out = weight->out, in = weight->in;
  if (T <= 0 || in <= 0) return NT_OK;
  const int64_t columns = T < kEdge ? T : kEdge, tiles = (T + columns - 1) / columns;
  Rows rows = {nullptr, tiles, (in + kDepth - 1) / kDepth, columns};
  auto *packed = static_cast<uint32_t *>(scratch(context, tiles * rows.steps * kEdge * columns * 4));
  if (packed == nullptr) return fail(NT_OUT_OF_MEMORY, "linear: no memory to pack %lld rows", (long long)T);
  pack(packed, static_cast<const bf16 *>(a), lda, T, in, rows);
  rows.packed = packed;
  const ProductResult result = {c, c_dtype, ldc, bias, accumulate};
  const int64_t blocks = (out + kEdge - 1) / kEdge;
  const bool coded = weight->scratch != nullptr;
  bool has_memory = true;
  parallel_for(context->threads, blocks, 1 + (1 << 14) / (in * 2 * kEdge), [&](int64_t first, int64_t last) {
    static thread_local Scratch memory;
    void *expanded = coded ? memory.at_least(nf4_rows_bytes(weight, kEdge)) : nullptr;
    if (coded && expanded == nullptr) {
      __atomic_store_n(&has_memory, false, __ATOMIC_RELAXED);
      return;
    }
    columns_of(result, weight, expanded, rows, T, first * kEdge,
               last * kEdge < out ? last * kEdge : out);
  });
  return has_memory ? int32_t(NT_OK) : fail(NT_OUT_OF_MEMORY, "linear: no memory to expand sixteen rows");
}

}  // namespace nt

#else

namespace nt {

bool amx_takes_rows(nt_context *, const nt_weight *) { return false; }

int32_t amx_rows_product(nt_context *, const nt_weight *, void *, int32_t, int64_t, const void *, int64_t, const float *,
                         bool, int64_t) {
  return fail(NT_UNSUPPORTED, "linear: this instruction set has no AMX");
}

}  // namespace nt

#endif
