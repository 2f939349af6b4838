// The optimizer: the gradient's norm and clipping factor, and AdamW (arXiv 1711.05101) as torch.optim.AdamW has it.
#include "adamw_update.h"
#include "context.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 256;

// The pieces of the norm depend on n alone, and so does the sum's order.
constexpr int64_t kMostPieces = 1024;
constexpr int64_t kLeastPiece = 16384;

// The block's sum in thread 0, in a fixed order. `sums`: a double for each warp.
__device__ __forceinline__ double block_sum_double(double x, double *sums) {
  NT_UNROLL
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(kAllLanes, x, step);
  if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = x;
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < kThreads / 32; warp++) total += sums[warp];
  return total;
}

// sums[piece] = Σ x² over `size` values, in float64, so that no square overflows: a block a piece, thread i the chunks
// i, i + kThreads, … Bytes a value: 4.
template <bool vector>
__global__ void __launch_bounds__(kThreads, 4) gradient_norm_kernel(double *sums, const float *x, int64_t n,
                                                                    int64_t size) {
  NT_SHARED(double, scratch, [kThreads / 32]);
  const int64_t begin = int64_t(blockIdx.x) * size, end = begin + size < n ? begin + size : n;
  double sum = 0.0;
  for (int64_t i = begin + threadIdx.x * 4; i < end; i += kThreads * 4) {
    const int64_t left = end - i;
    Pack<float> chunk;
    if (left >= 4)
      chunk = load_chunk<vector>(x + i, 4);
    else
      chunk = load_chunk<false>(x + i, int(left));
    NT_UNROLL
    for (int k = 0; k < 4; k++) {
      const double value = double(chunk.x[k]);
      sum = fma(value, value, sum);
    }
  }
  sum = block_sum_double(sum, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads, 1)
    gradient_factor_kernel(float *result, const double *sums, int pieces, float max_norm) {
  NT_SHARED(double, scratch, [kThreads / 32]);
  double sum = 0.0;
  for (int i = threadIdx.x; i < pieces; i += kThreads) sum += sums[i];
  sum = block_sum_double(sum, scratch);
  if (threadIdx.x > 0) return;
  const double norm = sqrt(sum);
  const double factor = max_norm > 0.0f ? double(max_norm) / (norm + 1e-6) : 1.0;
  result[0] = float(norm);
  result[1] = factor > 1.0 ? 1.0f : float(factor);  // a NaN stays one
}

// m += (1 − β₁)(g − m); v = β₂·v + (1 − β₂)·g²; p = decay·p − size · m / (sqrt(v)/root + eps). Four parameters a
// thread. Bytes a parameter: 16 read, 12 written, 2 more with the bf16 copy.
template <bool vector>
__global__ void __launch_bounds__(kThreads, 4)
    adamw_kernel(float *p, bf16 *copy, const float *g, float *m, float *v, int64_t n, AdamwStep s, const float *scale) {
  const int64_t i = int64_t(global_thread()) * 4;
  if (i >= n) return;
  const int left = n - i < 4 ? int(n - i) : 4;
  const float factor = scale == nullptr ? 1.0f : *scale;
  const bool whole = vector && left == 4;
  Pack<float> parameter, gradient, first, second;
  if (whole) {
    parameter = load_pack_once(p + i);
    gradient = load_pack_once(g + i);
    first = load_pack_once(m + i);
    second = load_pack_once(v + i);
  } else {
    parameter = load_chunk<false>(p + i, left);
    gradient = load_chunk<false>(g + i, left);
    first = load_chunk<false>(m + i, left);
    second = load_chunk<false>(v + i, left);
  }
  NT_UNROLL
  for (int k = 0; k < 4; k++) {
    adamw_update(parameter.x[k], gradient.x[k] * factor, first.x[k], second.x[k], s);
  }
  if (whole) {
    store_pack_once(p + i, parameter);
    store_pack_once(m + i, first);
    store_pack_once(v + i, second);
  } else {
    store_chunk<false>(p + i, parameter, left);
    store_chunk<false>(m + i, first, left);
    store_chunk<false>(v + i, second, left);
  }
  if (copy == nullptr) return;
  if (whole) {
    *reinterpret_cast<uint2 *>(copy + i) =
        make_uint2(pack_bf16(parameter.x[0], parameter.x[1]), pack_bf16(parameter.x[2], parameter.x[3]));
    return;
  }
  NT_UNROLL
  for (int k = 0; k < 4; k++)
    if (k < left) copy[i + k] = from_float<bf16>(parameter.x[k]);
}

int32_t gradient_norm(nt_context *context, float *result, const float *gradients, int64_t n, float max_norm) {
  int64_t size = ceil_div(ceil_div(n, kMostPieces), 4) * 4;
  if (size < kLeastPiece) size = kLeastPiece;
  const int64_t pieces = ceil_div(n, size);
  auto *sums = static_cast<double *>(context->workspace);
  auto *kernel = aligned16(gradients) ? gradient_norm_kernel<true> : gradient_norm_kernel<false>;
  NT_CUDA(launch(kernel, dim3(unsigned(pieces)), dim3(kThreads), 0, context->stream, sums, gradients, n, size),
          "gradient_norm");
  NT_CUDA(launch(gradient_factor_kernel, dim3(1), dim3(kThreads), 0, context->stream, result, sums, int(pieces),
                 max_norm),
          "gradient_norm: factor");
  return NT_OK;
}

int32_t adamw(nt_context *context, float *parameters, void *copy, const float *gradients, float *m, float *v, int64_t n,
              const AdamwStep &s, const float *gradient_scale) {
  const bool vector = aligned16(parameters, gradients, m, v) && reinterpret_cast<uintptr_t>(copy) % 8 == 0;
  auto *kernel = vector ? adamw_kernel<true> : adamw_kernel<false>;
  NT_CUDA(launch(kernel, dim3(unsigned(ceil_div(n, kThreads * 4))), dim3(kThreads), 0, context->stream, parameters,
                 static_cast<bf16 *>(copy), gradients, m, v, n, s, gradient_scale),
          "adamw");
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/adamw.h"
