// skinny.h's product that sums over rows.
#include "outer_blocks.h"
#include "skinny.h"
#include "skinny_amx.h"

namespace nt {
namespace {

template <typename T>
int32_t outer_product(nt_context *context, float *c, bool c_transposed, const T *p, int64_t ldp, const T *q, int64_t ldq,
                      int64_t rows, int64_t R, int64_t N) {
  constexpr int64_t kValues = Packing<T>::values, kSize = sizeof(T);
  const OuterBlocks<T> blocks(p, ldp, rows, R);
  const int64_t words = blocks.words(), tiles = ceil_div(N, kOuterTile), ldc = c_transposed ? R : N;
  auto *left = static_cast<float *>(
      packed_memory((blocks.left_words() + context->threads * blocks.right_words()) * int64_t(sizeof(float))));
  if (left == nullptr) return fail(NT_OUT_OF_MEMORY, "lora: no memory to pack %lld rows", (long long)rows);
  blocks.pack(context->threads, left);
  on_threads(int(std::min<int64_t>(tiles, context->threads)), [&](int thread, int threads) {
    const Range range = piece(tiles, thread, threads);
    float *right = left + blocks.left_words() + thread * blocks.right_words();
    const int64_t begin = range.begin * kOuterTile, end = std::min(range.end * kOuterTile, N);
    for (int64_t k = 0; k < words; k += kOuterWords) {
      const int64_t some = std::min(kOuterWords, words - k), t = k * kValues, after = t + kOuterWords * kValues;
      // The next rows in the order in which they lie, which the hardware then fetches by itself; where these are the last,
      // their next columns, which may be in the L2 cache.
      Ahead next(q + after * ldq + begin, ldq * kSize, std::min(kOuterWords * kValues, rows - after),
                 (end - begin) * kSize, blocks.asks(end - begin, some));
      for (int64_t n = begin; n < end; n += kOuterColumns) {
        const int64_t columns = std::min(kOuterColumns, end - n), width = std::min(kOuterColumns, end - n - columns);
        if (after >= rows)
          next = Ahead(q + t * ldq + n + columns, ldq * kSize, width > 0 ? rows - t : 0, width * kSize,
                       blocks.asks(columns, some));
        blocks.add(c + (c_transposed ? n * ldc : n), ldc, c_transposed, q + n, ldq, left, right, k, some, columns, next);
      }
    }
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
  return kOuterWords * (dtype == NT_F32 ? Packing<float>::values : Packing<bf16>::values);
}

}  // namespace nt
