// Dropout whose mask is a pure function of (seed, draw, position, module, column), so that the backward pass makes
// it again instead of keeping it.
#include "../entry/arguments.h"
#include "../entry/samples.h"
#include "context.h"
#include "parallel.h"
#include "random.h"

namespace nt {
namespace {

template <typename T_>
inline void apply(T_ *y, const T_ *x, Vec words, const DropoutMask &mask, int64_t n) {
  VecI kept = (VecI)((VecU)words >> 8) >= int32_t(mask.threshold);
  Vec value = n == kLanes ? load(x) : load_part(x, n), factor = splat(mask.scale), result;
  if (mask.accumulate) {
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
void row(T_ *y, const T_ *x, int64_t columns, const PhiloxKey &key, const DropoutMask &mask, uint32_t position,
         int64_t draw) {
  uint32_t c2 = uint32_t(draw), c3 = uint32_t(draw >> 32) | uint32_t(NT_STREAM_DROPOUT) << 16;
  for (int64_t j = 0; j < columns; j += kGroup) {
    Group words = RawWords()(philox_blocks(key, mask.module << 16 | uint32_t(j >> 2), position, c2, c3));
    int64_t left = columns - j;
    apply(y + j, x + j, words.low, mask, left < kLanes ? left : kLanes);
    left -= kLanes;
    if (left > 0) apply(y + j + kLanes, x + j + kLanes, words.high, mask, left < kLanes ? left : kLanes);
  }
}

template <typename T_>
int32_t dropout(nt_context *context, T_ *y, int64_t ldy, const T_ *x, int64_t ldx, int64_t T, int64_t columns,
                const DropoutMask &mask, const HostSamples &samples) {
  const PhiloxKey key(mask.seed);
  const int32_t *borders = samples.borders;
  parallel_for(context->threads, T, 1 + 8192 / columns, [&](int64_t begin, int64_t end) {
    int64_t s = 0;
    for (int64_t t = begin; t < end; t++) {
      while (t >= borders[s + 1]) s++;
      row(y + t * ldy, x + t * ldx, columns, key, mask, uint32_t(t - borders[s]), samples.draws[s]);
    }
  });
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/dropout.h"
