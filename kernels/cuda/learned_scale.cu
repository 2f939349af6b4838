// The gradient of a learned noise scale (arXiv 1706.10295's σ, on NEFTune's noise): Σ over tokens of scale · n · dy.
#include "../entry/samples.h"
#include "context.h"
#include "noise.h"
#include "partials.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kLanes = 32, kRows = 8;

// partials[part][j] = Σ of (scale · n) · dy over the part's tokens. A block has a chunk of columns for each lane, and its
// kRows warps take the tokens of the part in turn; their sums are added in order (shared: [kRows][columns]). dy is read
// once, 2 bytes an element in bf16; noise is drawn again.
template <class T, bool vector>
__global__ void __launch_bounds__(kLanes * kRows, 3)
    learned_scale_backward_kernel(float *partials, const T *dy, int64_t lddy, int64_t tokens, int64_t part_tokens,
                                  int H, int32_t noise, uint64_t seed, const int32_t *borders, const float *scales,
                                  const int64_t *draws, int32_t sequences) {
  constexpr int N = kChunk<T>;
  NT_SHARED(float, all, [kRows][kLanes * N]);
  const int lane = threadIdx.x, j = (int(blockIdx.x) * kLanes + lane) * N, left = H - j;
  const int64_t begin = int64_t(blockIdx.y) * part_tokens;
  const int64_t end = begin + part_tokens < tokens ? begin + part_tokens : tokens;
  float sums[N] = {};
  if (j < H) {
    for (int64_t t = begin + threadIdx.y; t < end; t += kRows) {
      const int s = sample_of(borders, sequences, int32_t(t));
      const uint64_t draw = uint64_t(draws[s]);
      const uint32_t position = uint32_t(t) - uint32_t(borders[s]);
      const uint32_t c3 = uint32_t(draw >> 32) | uint32_t(NT_STREAM_NOISE) << 16;
      const float scale = scales[s];
      float g[N];
      load_columns<vector>(g, dy + t * lddy + j, left);
      NT_UNROLL
      for (int i = 0; i < N; i += 4) {
        float n[4];
        noise_of(n, noise,
                 nt_philox(uint32_t(seed), uint32_t(seed >> 32), uint32_t((j + i) >> 2), position, uint32_t(draw), c3));
        NT_UNROLL
        for (int k = 0; k < 4; k++) sums[i + k] = fmaf(scale * n[k], g[i + k], sums[i + k]);
      }
    }
  }
  NT_UNROLL
  for (int i = 0; i < N; i++) all[threadIdx.y][i * kLanes + lane] = sums[i];
  __syncthreads();
  if (threadIdx.y > 0 || j >= H) return;
  NT_UNROLL
  for (int i = 0; i < N; i++) {
    sums[i] = 0.0f;
    NT_UNROLL
    for (int row = 0; row < kRows; row++) sums[i] += all[row][i * kLanes + lane];
  }
  store_columns<vector>(partials + int64_t(blockIdx.y) * H + j, sums, left);
}

template <class T>
int32_t learned_scale_backward(nt_context *context, float *gradient, const T *dy, int64_t lddy, int64_t tokens,
                               int64_t H, int32_t noise, uint64_t seed, const HostSamples &samples) {
  const int32_t *borders = device_table(context, samples.borders, samples.count + 1);
  const float *scales = device_table(context, samples.scales, samples.count);
  const int64_t *draws = device_table(context, samples.draws, samples.count);
  if (borders == nullptr || scales == nullptr || draws == nullptr) return NT_DEVICE;
  const int64_t columns = ceil_div(H, kLanes * kChunk<T>);
  // As many parts as run at once, and no more than the workspace holds.
  const int64_t room = context->workspace_bytes / (H * int64_t(sizeof(float)));
  NT_CHECK(room > 0, "learned_scale_backward: rows of %lld columns are too long for the workspace", (long long)H);
  int64_t parts = ceil_div(3 * int64_t(context->multiprocessors), columns);
  if (parts > ceil_div(tokens, kRows)) parts = ceil_div(tokens, kRows);
  if (parts > room) parts = room;
  const int64_t part_tokens = ceil_div(tokens, parts);
  parts = ceil_div(tokens, part_tokens);
  auto *partials = static_cast<float *>(context->workspace);
  const bool vector = H % 8 == 0 && lddy % 8 == 0 && aligned16(dy, partials);
  auto *kernel = vector ? learned_scale_backward_kernel<T, true> : learned_scale_backward_kernel<T, false>;
  NT_CUDA(launch(kernel, dim3(unsigned(columns), unsigned(parts)), dim3(kLanes, kRows), 0, context->stream, partials,
                 dy, lddy, tokens, part_tokens, int(H), noise, seed, borders, scales, draws, int32_t(samples.count)),
          "learned_scale_backward");
  return add_partials(context, gradient, partials, parts, H, "learned_scale_backward");
}

}  // namespace
}  // namespace nt

#include "../entry/learned_scale.h"
