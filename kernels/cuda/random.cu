// Random tensors: initial values of weights.
#include "context.h"
#include "noise.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 256;

// y[i] = scale · word i & 3 of block i >> 2, a chunk, so one or two blocks, a thread.
template <class T, bool vector>
__global__ void __launch_bounds__(kThreads, 4) random_kernel(T *y, int64_t n, int32_t noise, float scale, uint64_t seed,
                                                             uint32_t draw, uint32_t stream) {
  constexpr int N = kChunk<T>;
  const uint64_t first = global_thread() * N;
  if (first >= uint64_t(n)) return;
  Pack<T> out;
  NT_UNROLL
  for (int i = 0; i < N; i += 4) {
    const uint64_t block = (first + i) >> 2;
    float x[4];
    const nt_philox_block words = nt_philox(uint32_t(seed), uint32_t(seed >> 32), uint32_t(block),
                                            uint32_t(block >> 32), draw, stream << 16);
    noise_of(x, noise, words);
    NT_UNROLL
    for (int k = 0; k < 4; k++) out.x[i + k] = from_float<T>(scale * x[k]);
  }
  const int64_t left = n - int64_t(first);
  if (left >= N)
    store_chunk<vector>(y + first, out, N);
  else
    store_chunk<false>(y + first, out, int(left));
}

template <class T>
int32_t random(nt_context *context, T *y, int64_t n, int32_t kind, float scale, uint64_t seed, uint32_t draw,
               uint32_t stream) {
  const int32_t noise = kind == NT_RANDOM_UNIFORM ? NT_NOISE_UNIFORM : NT_NOISE_GAUSSIAN;
  auto *kernel = aligned16(y) ? random_kernel<T, true> : random_kernel<T, false>;
  NT_CUDA(launch(kernel, dim3(unsigned(ceil_div(n, kThreads * kChunk<T>))), dim3(kThreads), 0, context->stream, y, n,
                 noise, scale, seed, draw, stream),
          "random");
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/random.h"
