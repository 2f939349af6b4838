#include "partials.h"

namespace nt {
namespace {

// sums[j] += Σ partials[0 … parts − 1][j]: a block takes 32 columns; row i of its threads sums parts i, i + 32, …, then
// the 32 sums are added in order (shared: [32][32], one word a bank).
__global__ void __launch_bounds__(1024, 1)
    add_partials_kernel(float *sums, const float *partials, int64_t parts, int64_t columns) {
  NT_SHARED(float, rows, [32][32]);
  const int64_t j = int64_t(blockIdx.x) * 32 + threadIdx.x;
  float sum = 0.0f;
  if (j < columns)
    for (int64_t p = threadIdx.y; p < parts; p += 32) sum += partials[p * columns + j];
  rows[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || j >= columns) return;
  float all = 0.0f;
  NT_UNROLL
  for (int i = 0; i < 32; i++) all += rows[i][threadIdx.x];
  sums[j] += all;
}

}  // namespace

int32_t add_partials(nt_context *context, float *sums, const float *partials, int64_t parts, int64_t columns,
                     const char *what) {
  NT_CUDA(launch(add_partials_kernel, dim3(unsigned(ceil_div(columns, 32))), dim3(32, 32), 0, context->stream, sums,
                 partials, parts, columns),
          what);
  return NT_OK;
}

}  // namespace nt
