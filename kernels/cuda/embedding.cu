// Token embedding, with NEFTune's noise in the same pass (arXiv 2310.05914), and its gradient.
#include "../entry/samples.h"
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
int32_t embedding_forward(nt_context *context, Out *y, const In *table, const int32_t *ids, int64_t T, int64_t H,
                          int64_t V, int32_t noise, uint64_t seed, const HostSamples &host, const float *learned) {
  Samples samples = {};
  if (noise != NT_NOISE_NONE) {
    samples = {device_table(context, host.borders, host.count + 1), device_table(context, host.scales, host.count),
               device_table(context, host.draws, host.count), int32_t(host.count), learned};
    if (samples.borders == nullptr || samples.scales == nullptr || samples.draws == nullptr) return NT_DEVICE;
  }
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
int32_t embedding_backward(nt_context *context, float *dtable, const T_ *dy, const int32_t *ids, int64_t T, int64_t H,
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

#include "../entry/embedding.h"
