// Token embedding, with NEFTune's noise in the same pass (arXiv 2310.05914), and its gradient.
#include "../samples.h"
#include "context.h"
#include "noise.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 256;

struct Samples {
  const int32_t *borders;  // [sequences + 1]
  const float *scales;     // [sequences]
  const int64_t *draws;    // [sequences]
  int32_t count;
  const float *learned;  // [H], or null
};

// y[t] = table[ids[t]] + (scale · learned) · n, a block a token, a chunk of 16 output bytes a thread: 4 or 8 columns, that is one
// or two Philox blocks, whose noise never touches memory. Bytes an element: one read of the table, one write of y
// (4 in all in bf16). An id outside the table, which no host can see in time, becomes a row of NaN.
template <class Out, class In, bool vector>
__global__ void __launch_bounds__(kThreads, 4)
    embedding_forward_kernel(Out *y, const In *table, const int32_t *ids, int H, int64_t V, int32_t noise,
                             uint64_t seed, Samples samples) {
  constexpr int N = kChunk<Out>;
  const int64_t t = blockIdx.x, id = ids[t];
  const bool known = id >= 0 && id < V;
  const In *e = table + (known ? id * H : 0);
  Out *row = y + t * H;
  uint32_t position = 0, c2 = 0, c3 = 0;
  float scale = 0.0f;
  if (noise != NT_NOISE_NONE) {
    const int s = sample_of(samples.borders, samples.count, int32_t(t));
    const uint64_t draw = uint64_t(samples.draws[s]);
    position = uint32_t(t) - uint32_t(samples.borders[s]);
    scale = samples.scales[s];
    c2 = uint32_t(draw);
    c3 = uint32_t(draw >> 32) | uint32_t(NT_STREAM_NOISE) << 16;
  }
  for (int j = threadIdx.x * N; j < H; j += blockDim.x * N) {
    float x[N];
    if (known) {
      load_columns<vector>(x, e + j, H - j);
    } else {
      NT_UNROLL
      for (int i = 0; i < N; i++) x[i] = NAN;
    }
    if (noise != NT_NOISE_NONE) {
      float learned[N];
      if (samples.learned != nullptr) {
        load_columns<vector>(learned, samples.learned + j, H - j);
      } else {
        NT_UNROLL
        for (int i = 0; i < N; i++) learned[i] = 1.0f;
      }
      NT_UNROLL
      for (int i = 0; i < N; i += 4) {
        float n[4];
        noise_of(n, noise, nt_philox(uint32_t(seed), uint32_t(seed >> 32), uint32_t((j + i) >> 2), position, c2, c3));
        NT_UNROLL
        for (int k = 0; k < 4; k++) x[i + k] = fmaf(scale * learned[i + k], n[k], x[i + k]);
      }
    }
    Pack<Out> out;
    NT_UNROLL
    for (int i = 0; i < N; i++) out.x[i] = from_float<Out>(x[i]);
    store_chunk<vector>(row + j, out, H - j);
  }
}

// dtable[id] += the rows of dy at the tokens of `id`, in token order. A block takes one token and kThreads chunks of
// columns. Where its id stood earlier it leaves; else it owns the id: it reads the other ids, kThreads at a time, lists
// those that match, in order, in shared memory, and adds their rows to sums in registers, so that dtable is read and
// written once an id. The ids are read T²/2 times at most (from L2: about 0.1 ms at 8,192 tokens), which spares a sort
// and the host any knowledge of them.
template <class T_, bool vector>
__global__ void __launch_bounds__(kThreads, 4)
    embedding_backward_kernel(float *dtable, const T_ *dy, const int32_t *ids, int64_t T, int H, int64_t V) {
  constexpr int N = kChunk<T_>, kWarps = kThreads / 32;
  NT_SHARED(uint32_t, masks, [kWarps]);
  NT_SHARED(int32_t, matches, [kThreads]);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int64_t t = blockIdx.x;
  const int32_t id = ids[t];
  if (id < 0 || id >= V) return;
  for (int64_t end = t; end > 0; end -= kThreads) {
    const int64_t i = end - 1 - int64_t(threadIdx.x);
    if (__syncthreads_or(i >= 0 && ids[i] == id)) return;
  }
  const int64_t j = (int64_t(blockIdx.y) * kThreads + threadIdx.x) * N;
  const int left = int(H - j);
  const bool mine = j < H;
  float sum[N] = {};
  if (mine) load_columns<vector>(sum, dtable + int64_t(id) * H + j, left);
  for (int64_t base = t; base < T; base += kThreads) {
    const int64_t i = base + threadIdx.x;
    const bool match = i < T && ids[i] == id;
    const uint32_t mask = __ballot_sync(kAllLanes, match);
    if (lane == 0) masks[warp] = mask;
    if (!__syncthreads_or(match)) continue;
    int before = 0, total = 0;
    NT_UNROLL
    for (int w = 0; w < kWarps; w++) {
      const int found = __popc(masks[w]);
      before += w < warp ? found : 0;
      total += found;
    }
    if (match) matches[before + __popc(mask & ((1u << lane) - 1))] = int32_t(i);
    __syncthreads();
    if (!mine) continue;
#pragma unroll 4  // so that four rows are on their way at a time
    for (int m = 0; m < total; m++) {
      float row[N];
      load_columns<vector>(row, dy + int64_t(matches[m]) * H + j, left);
      NT_UNROLL
      for (int k = 0; k < N; k++) sum[k] += row[k];
    }
  }
  if (mine) store_columns<vector>(dtable + int64_t(id) * H + j, sum, left);
}

template <class Out, class In>
int32_t forward(nt_context *context, Out *y, const In *table, const int32_t *ids, int64_t T, int64_t H, int64_t V,
                int32_t noise, uint64_t seed, const Samples &samples) {
  const bool vector = H % 8 == 0 && aligned16(y, table, samples.learned);
  const int64_t chunks = ceil_div(H, kChunk<Out>);
  const int threads = chunks < kThreads ? int(ceil_div(chunks, 32) * 32) : kThreads;
  auto *kernel = vector ? embedding_forward_kernel<Out, In, true> : embedding_forward_kernel<Out, In, false>;
  NT_CUDA(launch(kernel, dim3(unsigned(T)), dim3(threads), 0, context->stream, y, table, ids, int(H), V, noise, seed,
                 samples),
          "embedding_forward");
  return NT_OK;
}

template <class T_>
int32_t backward(nt_context *context, float *dtable, const T_ *dy, const int32_t *ids, int64_t T, int64_t H,
                 int64_t V) {
  const bool vector = H % 8 == 0 && aligned16(dtable, dy);
  auto *kernel = vector ? embedding_backward_kernel<T_, true> : embedding_backward_kernel<T_, false>;
  const dim3 grid(unsigned(T), unsigned(ceil_div(H, kChunk<T_> * kThreads)));
  NT_CUDA(launch(kernel, grid, dim3(kThreads), 0, context->stream, dtable, dy, ids, T, int(H), V),
          "embedding_backward");
  return NT_OK;
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
  NT_CHECK(T <= INT32_MAX && H <= nt::kMostColumns, "embedding_forward: T must be below 2^31 and H at most 2^30"
           ", got %lld and %lld", (long long)T, (long long)H);
  nt::Samples samples = {};
  if (noise != NT_NOISE_NONE) {
    NT_CHECK(cu_seqlens != nullptr && scales != nullptr && draws != nullptr,
             "embedding_forward: noise needs cu_seqlens, scales and draws");
    const int32_t status = nt::check_samples("embedding_forward", cu_seqlens, draws, sequences, T);
    if (status != NT_OK) return status;
    samples.borders = nt::device_table(context, cu_seqlens, sequences + 1);
    samples.scales = nt::device_table(context, scales, sequences);
    samples.draws = nt::device_table(context, draws, sequences);
    samples.count = int32_t(sequences);
    samples.learned = learned_scale;
    if (samples.borders == nullptr || samples.scales == nullptr || samples.draws == nullptr) return NT_DEVICE;
  }
  auto run = [&](auto *out, const auto *in) {
    return nt::forward(context, out, in, ids, T, H, V, noise, seed, samples);
  };
  auto *y32 = static_cast<float *>(y);
  auto *y16 = static_cast<nt::bf16 *>(y);
  auto *table32 = static_cast<const float *>(table);
  auto *table16 = static_cast<const nt::bf16 *>(table);
  if (dtype == NT_F32) return table_dtype == NT_F32 ? run(y32, table32) : run(y32, table16);
  return table_dtype == NT_F32 ? run(y16, table32) : run(y16, table16);
}

NT_API int32_t nt_embedding_backward(nt_context *context, int32_t dtype, float *dtable, const void *dy,
                                     const int32_t *ids, int64_t T, int64_t H, int64_t V) {
  NT_CHECK_DTYPE("embedding_backward", dtype);
  NT_CHECK(T >= 0 && H >= 0 && V >= 0, "embedding_backward: sizes must be ≥ 0, got T %lld, H %lld, V %lld",
           (long long)T, (long long)H, (long long)V);
  if (T == 0 || H == 0) return NT_OK;
  NT_CHECK(dtable != nullptr && dy != nullptr && ids != nullptr,
           "embedding_backward: dtable, dy and ids must not be null");
  NT_CHECK(T <= INT32_MAX && H <= nt::kMostColumns, "embedding_backward: T must be below 2^31 and H at most 2^30"
           ", got %lld and %lld", (long long)T, (long long)H);
  if (dtype == NT_F32) return nt::backward(context, dtable, static_cast<const float *>(dy), ids, T, H, V);
  return nt::backward(context, dtable, static_cast<const nt::bf16 *>(dy), ids, T, H, V);
}
