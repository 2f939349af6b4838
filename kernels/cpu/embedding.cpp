// Token embedding, with NEFTune's noise in the same pass (arXiv 2310.05914), and its gradient.
#include <string.h>

#include "../entry/samples.h"
#include "context.h"
#include "parallel.h"
#include "random.h"

namespace nt {
namespace {

template <typename Out, typename In>
void copy_row(Out *y, const In *e, int64_t H) {
  int64_t j = 0;
  for (; j + kLanes <= H; j += kLanes) store(y + j, load(e + j));
  if (j < H) store_part(y + j, load_part(e + j, H - j), H - j);
}
inline void copy_row(bf16 *y, const bf16 *e, int64_t H) { memcpy(y, e, size_t(H) * sizeof(bf16)); }
inline void copy_row(float *y, const float *e, int64_t H) { memcpy(y, e, size_t(H) * sizeof(float)); }

// y[H] = fma(scale, n, e[H]), n of one token; with `learned` scale · learned[j] for scale.
template <typename Noise, typename Out, typename In>
void noisy_row(Out *y, const In *e, int64_t H, float scale, const float *learned, const PhiloxKey &key,
               uint32_t position, int64_t draw) {
  NoiseCounter counter(position, draw);
  Noise noise;
  auto factor = [&](int64_t j) { return learned == nullptr ? splat(scale) : splat(scale) * load(learned + j); };
  auto factor_part = [&](int64_t j, int64_t n) {
    return learned == nullptr ? splat(scale) : splat(scale) * load_part(learned + j, n);
  };
  int64_t j = 0;
  for (; j + kGroup <= H; j += kGroup) {
    Group n = noise(counter.blocks(key, j));
    store(y + j, fma(factor(j), n.low, load(e + j)));
    store(y + j + kLanes, fma(factor(j + kLanes), n.high, load(e + j + kLanes)));
  }
  if (j == H) return;
  Group n = noise(counter.blocks(key, j));
  int64_t first = H - j < kLanes ? H - j : kLanes, second = H - j - first;
  store_part(y + j, fma(factor_part(j, first), n.low, load_part(e + j, first)), first);
  j += kLanes;
  if (second > 0) store_part(y + j, fma(factor_part(j, second), n.high, load_part(e + j, second)), second);
}

template <typename Out, typename In>
int32_t embedding_forward(nt_context *context, Out *y, const In *table, const int32_t *ids, int64_t T, int64_t H,
                          int64_t, int32_t noise, uint64_t seed, const HostSamples &samples, const float *learned) {
  const PhiloxKey key(seed);
  parallel_for(context->threads, T, 1 + 8192 / H, [&](int64_t begin, int64_t end) {
    int64_t s = 0;
    for (int64_t t = begin; t < end; t++) {
      const In *e = table + ids[t] * H;
      Out *row = y + t * H;
      if (noise == NT_NOISE_NONE) {
        copy_row(row, e, H);
        continue;
      }
      while (t >= samples.borders[s + 1]) s++;
      uint32_t position = uint32_t(t - samples.borders[s]);
      with_noise(noise, [&](auto kind) {
        noisy_row<decltype(kind)>(row, e, H, samples.scales[s], learned, key, position, samples.draws[s]);
      });
    }
  });
  return NT_OK;
}

template <typename T_>
int32_t embedding_backward(nt_context *context, float *dtable, const T_ *dy, const int32_t *ids, int64_t T, int64_t H,
                           int64_t) {
  // Threads own columns: every element gets its terms in token order whatever the number of threads.
  int64_t least = T < 1024 ? 64 * (1 + 1024 / T) : 64;
  int64_t useful = 1 + H / least;
  int n = useful < context->threads ? int(useful) : context->threads;
  on_threads(n, [&](int thread, int size) {
    Range columns = piece(H, thread, size, 2 * kLanes);
    for (int64_t t = 0; t < T; t++) {
      float *sum = dtable + ids[t] * H;
      const T_ *row = dy + t * H;
      int64_t j = columns.begin;
      for (; j + kLanes <= columns.end; j += kLanes) store(sum + j, load(sum + j) + load(row + j));
      for (; j < columns.end; j++) sum[j] += to_float(row[j]);
    }
  });
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/embedding.h"
