// skinny.h's product of many rows with a narrow matrix.
#include "narrow_blocks.h"
#include "skinny.h"
#include "skinny_amx.h"

namespace nt {
namespace {

template <typename T>
int32_t narrow_product(nt_context *context, T *c, int64_t ldc, const T *x, int64_t ldx, const Matrix &q, float scale,
                       int64_t rows, int64_t R, int64_t K) {
  const NarrowBlocks<T> blocks(q, K, R);
  constexpr int64_t kValues = Packing<T>::values, size = sizeof(T);
  const int64_t words = blocks.words(), deep = blocks.deep();
  // Short rows are asked for in the order in which they lie, and the hardware then fetches ahead by itself; of long ones
  // only the next words, as several rows would fill the cache.
  const bool is_long = K * size > 2560;
  auto *right = static_cast<float *>(packed_memory(words * blocks.width() * int64_t(sizeof(float))));
  if (right == nullptr) return fail(NT_OUT_OF_MEMORY, "lora: no memory to pack %lld columns", (long long)R);
  blocks.pack(context->threads, right);
  parallel_for(context->threads, ceil_div(rows, kNarrowRows), 1, [&](int64_t begin, int64_t end) {
    alignas(64) float sums[kNarrowRows * kNarrowColumns];
    for (int64_t t = begin * kNarrowRows; t < std::min(end * kNarrowRows, rows); t += kNarrowRows) {
      const int64_t some = std::min(kNarrowRows, rows - t);
      const T *block = x + t * ldx;
      const T *after = block + kNarrowRows * ldx;
      Ahead next(after, ldx * size, some, K * size, blocks.asks(some, words));
      for (int64_t k = 0; k < words; k += deep) {
        const bool is_last = k + deep >= words;
        if (is_long)
          next = Ahead(is_last ? after : block + (k + deep) * kValues, ldx * size, some, deep * kValues * size,
                       blocks.asks(some, deep));
        blocks.sum(sums, block, ldx, right, some, k, std::min(deep, words - k), next);
      }
      blocks.put(c + t * ldc, ldc, sums, scale, some);
    }
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
  const auto call = [&](auto *to, auto *from) {
    int32_t status = NT_OK;
    for (int64_t r = 0; r < R && status == NT_OK; r += kNarrowColumns) {
      const Matrix own = {element(q, 0, r), q.dtype, q.row, q.column};
      status = narrow_product(context, to + r, ldc, from, ldx, own, scale, T, std::min(kNarrowColumns, R - r), K);
    }
    return status;
  };
  if (dtype == NT_F32) return call(static_cast<float *>(c), static_cast<const float *>(x));
  return call(static_cast<bf16 *>(c), static_cast<const bf16 *>(x));
}

}  // namespace nt
