// Dropout whose mask is a pure function of (seed, draw, position, module, column), so that the backward pass makes
// it again instead of keeping it.
#include <math.h>

#include "../samples.h"
#include "context.h"
#include "parallel.h"
#include "random.h"

namespace nt {
namespace {

struct Mask {
  PhiloxKey key;
  uint32_t module;
  uint32_t threshold;  // kept where the word's top 24 bits are at least this
  float scale;
};

template <typename T_>
inline void apply(T_ *y, const T_ *x, Vec words, const Mask &mask, bool accumulate, int64_t n) {
  VecI kept = (VecI)((VecU)words >> 8) >= int32_t(mask.threshold);
  Vec value = n == kLanes ? load(x) : load_part(x, n), factor = splat(mask.scale), result;
  if (accumulate) {
    Vec old = n == kLanes ? load(y) : load_part(y, n);
    result = select(kept, fma(factor, value, old), old);
  } else {
    result = select(kept, factor * value, splat(0.0f));
  }
  if (n == kLanes)
    store(y, result);
  else
    store_part(y, result, n);
}

// y[columns] = or += mask ∘ x[columns]
template <typename T_>
void row(T_ *y, const T_ *x, int64_t columns, const Mask &mask, bool accumulate, uint32_t position, int64_t draw) {
  uint32_t c2 = uint32_t(draw), c3 = uint32_t(draw >> 32) | uint32_t(NT_STREAM_DROPOUT) << 16;
  for (int64_t j = 0; j < columns; j += kGroup) {
    Group words = RawWords()(philox_blocks(mask.key, mask.module << 16 | uint32_t(j >> 2), position, c2, c3));
    int64_t left = columns - j;
    apply(y + j, x + j, words.low, mask, accumulate, left < kLanes ? left : kLanes);
    left -= kLanes;
    if (left > 0) apply(y + j + kLanes, x + j + kLanes, words.high, mask, accumulate, left < kLanes ? left : kLanes);
  }
}

template <typename T_>
void dropout(int threads, T_ *y, const T_ *x, int64_t T, int64_t columns, const Mask &mask, bool accumulate,
             const int32_t *borders, const int64_t *draws) {
  parallel_for(threads, T, 1 + 8192 / columns, [&](int64_t begin, int64_t end) {
    int64_t s = 0;
    for (int64_t t = begin; t < end; t++) {
      while (t >= borders[s + 1]) s++;
      row(y + t * columns, x + t * columns, columns, mask, accumulate, uint32_t(t - borders[s]), draws[s]);
    }
  });
}

}  // namespace
}  // namespace nt

NT_API int32_t nt_dropout(nt_context *context, int32_t dtype, void *y, const void *x, int64_t T, int64_t columns,
                          float p, uint64_t seed, int32_t module, int32_t accumulate, const int32_t *cu_seqlens,
                          const int64_t *draws, int64_t sequences) {
  NT_CHECK_DTYPE("dropout", dtype);
  NT_CHECK(T >= 0 && sequences >= 0, "dropout: sizes must be ≥ 0, got T %lld, sequences %lld", (long long)T,
           (long long)sequences);
  NT_CHECK(columns >= 0 && columns <= 4 << 16, "dropout: columns must be in [0, 262144], got %lld",
           (long long)columns);
  NT_CHECK(p >= 0.0f && p < 1.0f, "dropout: p must be in [0, 1), got %g", double(p));
  NT_CHECK(module >= 0 && module < 1 << 16, "dropout: module must be in [0, 65536), got %d", int(module));
  if (T == 0 || columns == 0) return NT_OK;
  NT_CHECK(y != nullptr && x != nullptr && cu_seqlens != nullptr && draws != nullptr,
           "dropout: y, x, cu_seqlens and draws must not be null");
  int32_t status = nt::check_samples("dropout", cu_seqlens, draws, sequences, T);
  if (status != NT_OK) return status;
  auto threshold = uint32_t(ceil(double(p) * 0x1p24));
  nt::Mask mask = {nt::PhiloxKey(seed), uint32_t(module), threshold, float(1.0 / (1.0 - double(p)))};
  if (dtype == NT_F32)
    nt::dropout(context->threads, static_cast<float *>(y), static_cast<const float *>(x), T, columns, mask,
                accumulate != 0, cu_seqlens, draws);
  else
    nt::dropout(context->threads, static_cast<nt::bf16 *>(y), static_cast<const nt::bf16 *>(x), T, columns, mask,
                accumulate != 0, cu_seqlens, draws);
  return NT_OK;
}
