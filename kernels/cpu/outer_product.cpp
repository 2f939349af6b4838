// skinny.h's product that sums over rows: the wide operand's columns lie along the vectors, and what is read of it is
// widened once for all rows of the narrow one.
#include <algorithm>

#include "narrow_tiles.h"
#include "skinny.h"
#include "skinny_amx.h"
#include "word_packing.h"

namespace nt {
namespace {

constexpr int kTileRows = kLanes == 16 ? 8 : 4, kTileVectors = 3;
constexpr int64_t kTileColumns = kTileVectors * kLanes;
constexpr int64_t kPanels = 2;         // of kTileColumns, packed together: whole cache lines of q's rows
constexpr int64_t kSteps = 256;        // words summed between visits to c
constexpr int64_t kMostRows = 64;      // of c, summed together

// words[row blocks, words, kTileRows] = p[rows, R] for the words [begin, end) of `words`, zeros beyond R.
template <typename T>
void pack_narrow(float *to, const T *p, int64_t ldp, int64_t rows, int64_t R, int64_t words, int64_t begin, int64_t end) {
  typedef Packing<T> P;
  const Matrix matrix = as_stored(p, sizeof(T) == 2 ? NT_BF16 : NT_F32, ldp);
  (void)matrix;
  const int64_t blocks = ceil_div(R, kTileRows);
  for (int64_t k = begin; k < end; k++) {
    const T *row = p + k * P::values * ldp, *next = k * P::values + 1 < rows ? row + ldp : nullptr;
    for (int64_t r = 0; r < blocks * kTileRows; r += kLanes) {
      const Vec value = r < R ? P::across(row + r, next == nullptr ? nullptr : next + r, R - r) : Vec{};
      float lanes[kLanes];
      store(lanes, value);
      for (int64_t i = 0; i < kLanes && r + i < blocks * kTileRows; i += kTileRows)
        memcpy(to + ((r + i) / kTileRows * words + k) * kTileRows, lanes + i, kTileRows * sizeof(float));
    }
  }
}

// [panels][words, kTileColumns] = words [k, k + words) of q's columns from n on, zeros beyond its ends. Its rows lie pages
// apart, where the hardware does not prefetch.
template <typename T>
void pack_wide(float *to, const T *q, int64_t ldq, int64_t rows, int64_t n, int64_t columns, int64_t k, int64_t words) {
  typedef Packing<T> P;
  const int64_t panels = ceil_div(columns, kTileColumns), whole = columns / kTileColumns;
  for (int64_t w = 0; w < words; w++, k++, to += kTileColumns) {
    const T *row = q + k * P::values * ldq + n, *next = k * P::values + 1 < rows ? row + ldq : nullptr;
    for (int64_t panel = 0; panel < whole; panel++)
      for (int64_t v = 0; v < kTileColumns; v += kLanes) {
        const int64_t j = panel * kTileColumns + v;
        store(to + panel * words * kTileColumns + v, P::across(row + j, next == nullptr ? nullptr : next + j));
      }
    if (whole == panels) continue;
    for (int64_t v = 0; v < kTileColumns; v += kLanes) {
      const int64_t j = whole * kTileColumns + v;
      store(to + whole * words * kTileColumns + v,
            j < columns ? P::across(row + j, next == nullptr ? nullptr : next + j, columns - j) : Vec{});
    }
  }
}

// c[rows, columns] += sums[rows, kTileColumns].
inline void add(float *c, int64_t ldc, const float *sums, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j += kLanes) {
      float *at = c + i * ldc + j;
      const Vec sum = load(sums + i * kTileColumns + j);
      if (j + kLanes <= columns)
        store(at, load(at) + sum);
      else
        store_part(at, load_part(at, columns - j) + sum, columns - j);
    }
}

// c[columns, rows] += sums[rows, kTileColumns]ᵀ.
inline void add_transposed(float *c, int64_t ldc, const float *sums, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i += kLanes)
    for (int64_t j = 0; j < columns; j += kLanes) {
      Vec square[kLanes];
      for (int64_t k = 0; k < kLanes; k++) square[k] = i + k < rows ? load(sums + (i + k) * kTileColumns + j) : Vec{};
      transpose(square);
      for (int64_t k = 0; k < kLanes && j + k < columns; k++) {
        float *at = c + (j + k) * ldc + i;
        if (i + kLanes <= rows)
          store(at, load(at) + square[k]);
        else
          store_part(at, load_part(at, rows - i) + square[k], rows - i);
      }
    }
}

template <typename T>
int32_t outer_product(nt_context *context, float *c, bool c_transposed, const T *p, int64_t ldp, const T *q, int64_t ldq,
                      int64_t rows, int64_t R, int64_t N) {
  typedef Packing<T> P;
  const int64_t words = P::words(rows), narrow = round_up(R, kTileRows) * words;
  const int64_t pack = kPanels * kTileColumns * kSteps, panels = ceil_div(N, kTileColumns);
  auto *left = static_cast<float *>(packed_memory((narrow + context->threads * pack) * int64_t(sizeof(float))));
  if (left == nullptr) return fail(NT_OUT_OF_MEMORY, "lora: no memory to pack %lld rows", (long long)rows);
  parallel_for(context->threads, words, 64, [&](int64_t begin, int64_t end) {
    pack_narrow(left, p, ldp, rows, R, words, begin, end);
  });
  const auto work = [&](int64_t first, int64_t last, float *right) {
    alignas(64) float sums[kMostRows * kTileColumns];
    for (int64_t n = first * kTileColumns; n < std::min(last * kTileColumns, N); n += kPanels * kTileColumns)
      for (int64_t k = 0; k < words; k += kSteps) {
        const int64_t some = std::min(kSteps, words - k);
        const int64_t columns = std::min({kPanels * kTileColumns, N - n, last * kTileColumns - n});
        const int64_t calls = std::max<int64_t>(1, ceil_div(R, kTileRows) * ceil_div(columns, kTileColumns) * (some / kUnrolled));
        const bool down = k + kSteps < words;
        Ahead next(down ? q + (k + kSteps) * P::values * ldq + n : q + n + columns, ldq * int64_t(sizeof(T)),
                   std::min(kSteps * P::values, down ? rows - (k + kSteps) * P::values : rows), columns * int64_t(sizeof(T)), ceil_div(kSteps * P::values * ceil_div(columns * int64_t(sizeof(T)), 64), calls));
        pack_wide(right, q, ldq, rows, n, columns, k, some);
        for (int64_t j = 0; j < columns; j += kTileColumns)
          for (int64_t r = 0; r < R; r += kMostRows) {
            const int64_t height = std::min(kMostRows, R - r), width = std::min(kTileColumns, columns - j);
            for (int64_t i = 0; i < height; i += kTileRows)
              tile_sums<P::pairs, kTileRows, kTileVectors, 1, kTileRows>(
                  some, left + (r + i) * words + k * kTileRows, right + j * some, sums + i * kTileColumns, kTileColumns,
                  false, next);
            if (c_transposed)
              add_transposed(c + (n + j) * R + r, R, sums, height, width);
            else
              add(c + r * N + n + j, N, sums, height, width);
          }
      }
  };
  on_threads(int(std::min<int64_t>(panels, context->threads)), [&](int thread, int threads) {
    const Range range = piece(panels, thread, threads);
    work(range.begin, range.end, left + narrow + thread * pack);
  });
  return NT_OK;
}

}  // namespace

int32_t outer_product(nt_context *context, int32_t dtype, float *c, bool c_transposed, const void *p, int64_t ldp,
                      const void *q, int64_t ldq, int64_t T, int64_t R, int64_t N) {
  if (T <= 0 || R <= 0 || N <= 0) return NT_OK;
#ifdef __AMX_BF16__
  if (amx_takes(context, dtype))
    return outer_product_amx(context, c, c_transposed, static_cast<const bf16 *>(p), ldp, static_cast<const bf16 *>(q),
                             ldq, T, R, N);
#endif
  if (dtype == NT_F32)
    return outer_product(context, c, c_transposed, static_cast<const float *>(p), ldp, static_cast<const float *>(q),
                         ldq, T, R, N);
  return outer_product(context, c, c_transposed, static_cast<const bf16 *>(p), ldp, static_cast<const bf16 *>(q), ldq,
                       T, R, N);
}

int64_t outer_rows(nt_context *context, int32_t dtype) {
  if (amx_takes(context, dtype)) return kAmxOuterSteps;
  return kSteps * (dtype == NT_F32 ? Packing<float>::values : Packing<bf16>::values);
}

}  // namespace nt
