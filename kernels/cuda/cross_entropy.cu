// The language model's head and its loss in one: logits exist for a chunk of rows at a time, in the caller's
// workspace, in float32 whatever the activations are; their gradient replaces them in place.
#include <float.h>

#include "blas.h"

namespace nt {
namespace {

// Rows of logits lie a multiple of 32 bytes apart.
int64_t logits_ld(int64_t V) { return (V + 7) / 8 * 8; }

int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// Logits, gathered rows of x, and their gradient.
int64_t chunk_bytes(int32_t dtype, int64_t rows, int64_t H, int64_t V) {
  return aligned(rows * logits_ld(V) * 4) + 2 * aligned(rows * H * size_of(dtype));
}

// A chunk's product dx = dlogits·W has rows/128 · H/256 tiles, which come in waves of one tile a multiprocessor. The
// rows are the fewest whose waves are nearly as full as any can be whose workspace takes at most this share of the
// device's memory. They depend on device and model alone, so that a resumed run has the same chunks.
constexpr int64_t kTileRows = 128, kTileColumns = 256, kLeastChunkRows = 1024, kMostChunkRows = 4096;
constexpr int64_t kMemoryShare = 16;
constexpr double kNearly = 0.95;

double wave_fill(int64_t tiles, int64_t multiprocessors) {
  return double(tiles) / double(ceil_div(tiles, multiprocessors) * multiprocessors);
}

int64_t most_chunk_rows(const nt_context *context, int32_t dtype, int64_t H, int64_t V, bool) {
  const int64_t columns = ceil_div(H, kTileColumns);
  const auto fill = [&](int64_t rows) { return wave_fill(rows / kTileRows * columns, context->multiprocessors); };
  int64_t most = kLeastChunkRows;
  while (most < kMostChunkRows && chunk_bytes(dtype, most + kTileRows, H, V) <= context->total_bytes / kMemoryShare)
    most += kTileRows;
  double best = 0;
  for (int64_t rows = kLeastChunkRows; rows <= most; rows += kTileRows)
    if (fill(rows) > best) best = fill(rows);
  int64_t rows = kLeastChunkRows;
  while (fill(rows) < kNearly * best) rows += kTileRows;
  return rows;
}

constexpr int kRowThreads = 512, kUnits = 4;            // units of four logits a thread and step
constexpr int64_t kStep = int64_t(kRowThreads) * kUnits * 4;

// Four logits from j on; −∞ past the end of the row.
__device__ __forceinline__ float4 load_logits(const float *l, int64_t j, int64_t V) {
  const float4 none = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  if (j >= V) return none;
  float4 v = *reinterpret_cast<const float4 *>(l + j);
  if (j + 1 >= V) v.y = -INFINITY;
  if (j + 2 >= V) v.z = -INFINITY;
  if (j + 3 >= V) v.w = -INFINITY;
  return v;
}

__device__ __forceinline__ void store_four(float *d, const float (&v)[4]) {
  *reinterpret_cast<float4 *>(d) = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void store_four(bf16 *d, const float (&v)[4]) {
  *reinterpret_cast<uint2 *>(d) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
}

// The block's maximum in every thread; `scratch` as block_sum's.
__device__ __forceinline__ float block_max(float x, float *scratch) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  x = warp_max(x);
  __syncthreads();
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_max(scratch[lane < kRowThreads / 32 ? lane : 0]);
}

// loss = log Σ_j exp(l_j) − l_t, a block a row. One pass finds the greatest logit and the sum of the others' exp, each
// thread rescaling its sum as its maximum grows. The target's own term stays out of the sum: where it dominates, the
// loss is log1p(the others) and keeps its digits.
// With `gradient`, a second pass writes gradient_scale · (softmax(l) − onehot(t)) as T over the logits: a step's bf16
// end before the float32 that the next step reads begin, and a barrier parts a step's own reads from its writes.
// The last rows come first: the product has just written them, and the next one begins with those written last.
// Bytes a logit: 4 read; with gradient another 4 (of a row just read) and sizeof(T) written.
template <class T>
__global__ __launch_bounds__(kRowThreads, 2) void cross_entropy_kernel(float *losses, float *logits, int64_t ld,
                                                                       const int32_t *targets, int64_t V,
                                                                       float gradient_scale, bool gradient) {
  NT_SHARED(float, scratch, [32]);
  const int64_t row = gridDim.x - 1 - blockIdx.x;
  float *l = logits + row * ld;
  const int64_t target = targets[row];
  const float at_target = l[target];

  // A number, even where all that a thread sees is −∞.
  float top = fmaxf(at_target, -FLT_MAX), sum = 0;
  for (int64_t step = 0; step < V; step += kStep) {
    float4 v[kUnits];
    float highest = top;
    NT_UNROLL
    for (int i = 0; i < kUnits; i++) {
      v[i] = load_logits(l, step + (i * kRowThreads + int(threadIdx.x)) * 4, V);
      highest = fmaxf(fmaxf(fmaxf(v[i].x, v[i].y), fmaxf(v[i].z, v[i].w)), highest);
    }
    if (highest > top) {
      sum *= expf(top - highest);
      top = highest;
    }
    NT_UNROLL
    for (int i = 0; i < kUnits; i++) {
      const int64_t j = step + (i * kRowThreads + int(threadIdx.x)) * 4;
      const float e[4] = {expf(v[i].x - top), expf(v[i].y - top), expf(v[i].z - top), expf(v[i].w - top)};
      NT_UNROLL
      for (int c = 0; c < 4; c++) sum += j + c == target ? 0.0f : e[c];
    }
  }
  const float highest = block_max(top, scratch);
  const float others = block_sum(sum * expf(top - highest), scratch);
  const float total = others + expf(at_target - highest);
  if (threadIdx.x == 0)
    // With a logit of +∞ there is no loss: ∞ − ∞ is NaN.
    losses[row] = at_target == highest && highest < INFINITY ? log1pf(others) : highest - at_target + logf(total);
  if (!gradient) return;

  T *d = reinterpret_cast<T *>(l);
  const float factor = gradient_scale / total;
  for (int64_t step = 0; step < V; step += kStep) {
    float4 v[kUnits];
    NT_UNROLL
    for (int i = 0; i < kUnits; i++) v[i] = load_logits(l, step + (i * kRowThreads + int(threadIdx.x)) * 4, V);
    __syncthreads();
    NT_UNROLL
    for (int i = 0; i < kUnits; i++) {
      const int64_t j = step + (i * kRowThreads + int(threadIdx.x)) * 4;
      if (j >= V) continue;
      float out[4] = {expf(v[i].x - highest) * factor, expf(v[i].y - highest) * factor,
                      expf(v[i].z - highest) * factor, expf(v[i].w - highest) * factor};
      NT_UNROLL
      for (int c = 0; c < 4; c++)
        if (j + c == target) out[c] = -gradient_scale * (others / total);
      store_four(d + j, out);
    }
  }
}

// Row i of `packed` (a block) and row rows[i] of `all`, `units` a row: packed = all[rows], or all[rows] = packed.
template <class Unit, bool gather>
__global__ __launch_bounds__(128, 8) void chunk_rows_kernel(Unit *packed, Unit *all, const int32_t *rows,
                                                            int64_t units) {
  Unit *one = packed + int64_t(blockIdx.x) * units, *other = all + int64_t(rows[blockIdx.x]) * units;
  for (int64_t i = threadIdx.x; i < units; i += 128) {
    if (gather) {
      one[i] = other[i];
    } else {
      other[i] = one[i];
    }
  }
}

template <bool gather>
cudaError_t move_rows(nt_context *context, void *packed, void *all, const int32_t *rows, int64_t n, int64_t bytes) {
  const dim3 grid = dim3(unsigned(n)), block(128);
  if (bytes % 16 == 0 && reinterpret_cast<uintptr_t>(all) % 16 == 0)
    return launch(chunk_rows_kernel<uint4, gather>, grid, block, 0, context->stream, static_cast<uint4 *>(packed),
                  static_cast<uint4 *>(all), rows, bytes / 16);
  return launch(chunk_rows_kernel<uint16_t, gather>, grid, block, 0, context->stream, static_cast<uint16_t *>(packed),
                static_cast<uint16_t *>(all), rows, bytes / 2);
}

// dx[count,H] = dlogits·W. cuBLASLt's fast bf16 kernels take k in whole 16 bytes: of a vocabulary that is no multiple of
// eight (32,001, say), the last few words make a product of their own, to which that of all others is added.
int32_t gradient_of_rows(nt_context *context, const nt_weight *weight, void *dx, const void *dlogits, int64_t ld,
                         int64_t count) {
  const int64_t V = weight->out, H = weight->in, whole = V / 8 * 8;
  const int32_t dtype = weight->dtype;
  if (dtype == NT_F32 || weight->scratch != nullptr || whole == V || whole == 0)
    return times_weight(context, weight, dx, dtype, H, dlogits, ld, false, count);
  nt_weight first = *weight, last = *weight;
  first.out = whole;
  last.out = V - whole;
  last.data = static_cast<const bf16 *>(weight->data) + whole * H;
  const int32_t status = times_weight(context, &last, dx, dtype, H, static_cast<const bf16 *>(dlogits) + whole, ld,
                                      false, count);
  return status != NT_OK ? status : times_weight(context, &first, dx, dtype, H, dlogits, ld, true, count);
}

int32_t linear_cross_entropy(nt_context *context, int32_t dtype, float *losses, void *dx, float *dweight, const void *x,
                             const nt_weight *weight, const int32_t *rows, const int32_t *targets, int64_t n,
                             int64_t T, float gradient_scale, void *workspace, int64_t chunk) {
  const int64_t V = weight->out, H = weight->in, row_bytes = H * size_of(dtype);
  if (dx != nullptr && n < T) {
    const Watched watched(context->stream, moved("memset", T * row_bytes));
    NT_CUDA(cudaMemsetAsync(dx, 0, size_t(T * row_bytes), context->stream), "linear_cross_entropy");
  }
  if (n == 0) return NT_OK;
  const int32_t *device_rows = device_table(context, rows, n);
  const int32_t *device_targets = device_table(context, targets, n);
  if (device_rows == nullptr || device_targets == nullptr) return NT_DEVICE;
  const int64_t ld = logits_ld(V);
  auto *logits = static_cast<float *>(workspace);
  char *gathered_x = static_cast<char *>(workspace) + aligned(chunk * ld * 4);
  char *gathered_dx = gathered_x + aligned(chunk * row_bytes);
  const bool gradient = dx != nullptr || dweight != nullptr;
  const int64_t ld_gradient = dtype == NT_F32 ? ld : 2 * ld;  // rows stay where their logits were
  const auto kernel = dtype == NT_F32 ? cross_entropy_kernel<float> : cross_entropy_kernel<bf16>;
  for (int64_t first = 0; first < n; first += chunk) {
    const int64_t count = n - first < chunk ? n - first : chunk;
    // Rows that follow each other are used where they are.
    const bool together = rows[first + count - 1] - rows[first] == count - 1;
    const char *chunk_x = static_cast<const char *>(x) + rows[first] * row_bytes;
    if (!together) {
      NT_CUDA(move_rows<true>(context, gathered_x, const_cast<void *>(x), device_rows + first, count, row_bytes),
              "linear_cross_entropy");
      chunk_x = gathered_x;
    }
    int32_t status =
        times_weight_transposed(context, weight, logits, NT_F32, ld, chunk_x, H, nullptr, false, count);
    if (status != NT_OK) return status;
    NT_CUDA(launch(kernel, dim3(unsigned(count)), dim3(kRowThreads), 0, context->stream, losses + first, logits,
                       ld, device_targets + first, V, gradient_scale, gradient),
            "linear_cross_entropy");
    if (dx != nullptr) {
      char *to = together ? static_cast<char *>(dx) + rows[first] * row_bytes : gathered_dx;
      status = gradient_of_rows(context, weight, to, logits, ld_gradient, count);
      if (status != NT_OK) return status;
      if (!together)
        NT_CUDA(move_rows<false>(context, gathered_dx, dx, device_rows + first, count, row_bytes),
                "linear_cross_entropy");
    }
    if (dweight != nullptr) {
      status = matmul(context, {V, H, count, transposed(logits, dtype, ld_gradient),
                                    as_stored(chunk_x, dtype, H), dweight, NT_F32, H, nullptr, true});
      if (status != NT_OK) return status;
    }
  }
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/cross_entropy.h"
