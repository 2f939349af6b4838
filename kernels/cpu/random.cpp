// Random tensors: initial values of weights.
#include "random.h"

#include "context.h"
#include "parallel.h"

namespace nt {
namespace {

template <typename Distribution, typename T_>
void fill(int threads, T_ *y, int64_t n, float scale, uint64_t seed, uint32_t draw, uint32_t stream) {
  const PhiloxKey key(seed);
  Distribution distribution;
  int64_t groups = (n + kGroup - 1) / kGroup;
  parallel_for(threads, groups, 256, [&](int64_t begin, int64_t end) {
    Vec factor = splat(scale);
    for (int64_t g = begin; g < end; g++) {
      uint64_t block = uint64_t(g) * kBlocks;  // a group never crosses 2³² blocks
      Group x = distribution(philox_blocks(key, uint32_t(block), uint32_t(block >> 32), draw, stream << 16));
      Vec low = factor * x.low, high = factor * x.high;
      int64_t i = g * kGroup, left = n - i;
      if (left >= kGroup) {
        store(y + i, low);
        store(y + i + kLanes, high);
        continue;
      }
      store_part(y + i, low, left < kLanes ? left : kLanes);
      if (left > kLanes) store_part(y + i + kLanes, high, left - kLanes);
    }
  });
}

template <typename T_>
int32_t random(nt_context *context, T_ *y, int64_t n, int32_t kind, float scale, uint64_t seed, uint32_t draw,
               uint32_t stream) {
  if (kind == NT_RANDOM_UNIFORM)
    fill<Uniform>(context->threads, y, n, scale, seed, draw, stream);
  else
    fill<Gaussian>(context->threads, y, n, scale, seed, draw, stream);
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/random.h"
