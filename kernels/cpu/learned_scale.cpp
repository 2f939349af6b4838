// The gradient of a learned noise scale (arXiv 1706.10295's σ, on NEFTune's noise): Σ over tokens of scale · n · dy.
#include <algorithm>

#include "../entry/samples.h"
#include "context.h"
#include "parallel.h"
#include "random.h"

namespace nt {
namespace {

// Terms that are added up before they join the total: a shorter chain of roundings.
constexpr int64_t kTokens = 128;

template <typename T_>
struct Call {
  float *gradient;
  const T_ *dy;
  int64_t lddy, H;
  PhiloxKey key;
  const int32_t *borders;
  const float *scales;
  const int64_t *draws;
  int64_t sequences;
};

// gradient[j …] += the sums of `columns` ≤ kGroup columns.
template <typename Noise, typename T_>
void group_backward(const Call<T_> &call, int64_t j, int64_t columns) {
  const int64_t first = std::min(columns, int64_t(kLanes)), second = columns - first;
  Noise noise;
  Group total = {};
  for (int64_t s = 0; s < call.sequences; s++) {
    const Vec scale = splat(call.scales[s]);
    const int64_t begin = call.borders[s], end = call.borders[s + 1];
    for (int64_t start = begin; start < end; start += kTokens) {
      Group sum = {};
      for (int64_t t = start; t < std::min(start + kTokens, end); t++) {
        const Group n = noise(NoiseCounter(uint32_t(t - begin), call.draws[s]).blocks(call.key, j));
        const T_ *dy = call.dy + t * call.lddy + j;
        if (columns == kGroup) {
          sum.low = fma(scale * n.low, load(dy), sum.low);
          sum.high = fma(scale * n.high, load(dy + kLanes), sum.high);
        } else {
          sum.low = fma(scale * n.low, load_part(dy, first), sum.low);
          if (second > 0) sum.high = fma(scale * n.high, load_part(dy + kLanes, second), sum.high);
        }
      }
      total.low += sum.low;
      total.high += sum.high;
    }
  }
  float *gradient = call.gradient + j;
  store_part(gradient, load_part(gradient, first) + total.low, first);
  if (second > 0) store_part(gradient + kLanes, load_part(gradient + kLanes, second) + total.high, second);
}

// Threads own columns: a sum's order depends on the samples alone.
template <typename Noise, typename T_>
void backward(int threads, const Call<T_> &call) {
  const int64_t groups = (call.H + kGroup - 1) / kGroup, tokens = call.borders[call.sequences];
  parallel_for(threads, groups, 1 + 8192 / (tokens * kGroup), [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; group++)
      group_backward<Noise>(call, group * kGroup, std::min(int64_t(kGroup), call.H - group * kGroup));
  });
}

template <typename T_>
int32_t learned_scale_backward(nt_context *context, float *gradient, const T_ *dy, int64_t lddy, int64_t, int64_t H,
                               int32_t noise, uint64_t seed, const HostSamples &samples) {
  const auto &[borders, scales, draws, count] = samples;
  const Call<T_> call = {gradient, dy, lddy, H, PhiloxKey(seed), borders, scales, draws, count};
  with_noise(noise, [&](auto kind) { backward<decltype(kind)>(context->threads, call); });
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/learned_scale.h"
