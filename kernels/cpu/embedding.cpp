// Token embedding, with NEFTune's noise in the same pass (arXiv 2310.05914), and its gradient.
#include <string.h>

#include "../samples.h"
#include "context.h"
#include "parallel.h"
#include "random.h"

namespace nt {
namespace {

struct Samples {
  const int32_t *borders;  // [sequences + 1]
  const float *scales;     // [sequences]
  const int64_t *draws;    // [sequences]
  int64_t count;
  const float *learned;  // [H], or null
};

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
void forward(int threads, Out *y, const In *table, const int32_t *ids, int64_t T, int64_t H, int32_t noise,
             uint64_t seed, const Samples &samples) {
  const PhiloxKey key(seed);
  parallel_for(threads, T, 1 + 8192 / H, [&](int64_t begin, int64_t end) {
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
        noisy_row<decltype(kind)>(row, e, H, samples.scales[s], samples.learned, key, position, samples.draws[s]);
      });
    }
  });
}

int32_t check_ids(const char *op, const int32_t *ids, int64_t T, int64_t V) {
  for (int64_t t = 0; t < T; t++)
    NT_CHECK(ids[t] >= 0 && ids[t] < V, "%s: ids must be in [0, %lld), got %d at token %lld", op, (long long)V,
             int(ids[t]), (long long)t);
  return NT_OK;
}

template <typename T_>
void backward(int threads, float *dtable, const T_ *dy, const int32_t *ids, int64_t T, int64_t H) {
  // Threads own columns: every element gets its terms in token order whatever the number of threads.
  int64_t least = T < 1024 ? 64 * (1 + 1024 / T) : 64;
  int64_t useful = 1 + H / least;
  int n = useful < threads ? int(useful) : threads;
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
}

}  // namespace
}  // namespace nt

NT_API int32_t nt_embedding_forward(nt_context *context, int32_t dtype, void *y, const void *table,
                                    int32_t table_dtype, const int32_t *ids, int64_t T, int64_t H, int64_t V,
                                    int32_t noise, uint64_t seed, const int32_t *cu_seqlens, const float *scales,
                                    const int64_t *draws, int64_t sequences, const float *learned_scale) {
  NT_CHECK_DTYPE("embedding_forward", dtype);
  NT_CHECK_DTYPE("embedding_forward: table", table_dtype);
  NT_CHECK(T >= 0 && H >= 0 && V >= 0 && sequences >= 0,
           "embedding_forward: sizes must be ≥ 0, got T %lld, H %lld, V %lld, sequences %lld", (long long)T,
           (long long)H, (long long)V, (long long)sequences);
  NT_CHECK(noise >= NT_NOISE_NONE && noise <= NT_NOISE_GAUSSIAN, "embedding_forward: unknown noise %d", int(noise));
  if (T == 0 || H == 0) return NT_OK;
  NT_CHECK(y != nullptr && table != nullptr && ids != nullptr, "embedding_forward: y, table and ids must not be null");
  int32_t status = nt::check_ids("embedding_forward", ids, T, V);
  if (status != NT_OK) return status;
  if (noise != NT_NOISE_NONE) {
    NT_CHECK(cu_seqlens != nullptr && scales != nullptr && draws != nullptr,
             "embedding_forward: noise needs cu_seqlens, scales and draws");
    status = nt::check_samples("embedding_forward", cu_seqlens, draws, sequences, T);
    if (status != NT_OK) return status;
  }
  nt::Samples samples = {cu_seqlens, scales, draws, sequences, learned_scale};
  auto run = [&](auto *out, const auto *in) {
    nt::forward(context->threads, out, in, ids, T, H, noise, seed, samples);
  };
  auto *y32 = static_cast<float *>(y);
  auto *y16 = static_cast<nt::bf16 *>(y);
  auto *table32 = static_cast<const float *>(table);
  auto *table16 = static_cast<const nt::bf16 *>(table);
  if (dtype == NT_F32 && table_dtype == NT_F32) run(y32, table32);
  if (dtype == NT_F32 && table_dtype == NT_BF16) run(y32, table16);
  if (dtype == NT_BF16 && table_dtype == NT_F32) run(y16, table32);
  if (dtype == NT_BF16 && table_dtype == NT_BF16) run(y16, table16);
  return NT_OK;
}

NT_API int32_t nt_embedding_backward(nt_context *context, int32_t dtype, float *dtable, const void *dy,
                                     const int32_t *ids, int64_t T, int64_t H, int64_t V) {
  NT_CHECK_DTYPE("embedding_backward", dtype);
  NT_CHECK(T >= 0 && H >= 0 && V >= 0, "embedding_backward: sizes must be ≥ 0, got T %lld, H %lld, V %lld",
           (long long)T, (long long)H, (long long)V);
  if (T == 0 || H == 0) return NT_OK;
  NT_CHECK(dtable != nullptr && dy != nullptr && ids != nullptr,
           "embedding_backward: dtable, dy and ids must not be null");
  int32_t status = nt::check_ids("embedding_backward", ids, T, V);
  if (status != NT_OK) return status;
  if (dtype == NT_F32)
    nt::backward(context->threads, dtable, static_cast<const float *>(dy), ids, T, H);
  else
    nt::backward(context->threads, dtable, static_cast<const nt::bf16 *>(dy), ids, T, H);
  return NT_OK;
}
