// RMSNorm (arXiv 1910.07467), with the residual sum before it.
#include "context.h"
#include "partials.h"
#include "rows.h"

namespace nt {
namespace {

// Forward, a thread holds kHeld chunks of its row in registers, so that rows of up to 16,384 bf16 columns are read
// once; backward one chunk of dy and one of x (4,096 columns), since registers for more would cost threads. What lies
// beyond is read a second time, soon enough to find it in a cache.
constexpr int kHeld = 4;
constexpr int kMostThreads = 512;
constexpr int kWarpRows = 8;

// One warp a row where that holds it (1,024 bf16 columns forward), kWarpRows rows a block; else a block a row.
struct Shape {
  dim3 block;
  int64_t rows;  // a block
};

template <class T>
Shape shape_of(int64_t H, int held) {
  const int64_t threads = ceil_div(ceil_div(H, kChunk<T>), held * 32) * 32;
  if (threads <= 32) return {dim3(32, kWarpRows), kWarpRows};
  return {dim3(unsigned(threads < kMostThreads ? threads : kMostThreads)), 1};
}

// The row's sum in all its threads.
__device__ __forceinline__ float row_sum(float x, float *scratch) {
  return blockDim.x == 32 ? warp_sum(x) : block_sum(x, scratch);
}

// sum + Σ a²
template <class T>
__device__ __forceinline__ float squares_of(const Pack<T> &a, float sum) {
  NT_UNROLL
  for (int i = 0; i < kChunk<T>; i++) sum = fmaf(to_float(a.x[i]), to_float(a.x[i]), sum);
  return sum;
}
template <class T>
__device__ __forceinline__ Pack<T> add(const Pack<T> &a, const Pack<T> &b) {
  Pack<T> sum;
  NT_UNROLL
  for (int i = 0; i < kChunk<T>; i++) sum.x[i] = from_float<T>(to_float(a.x[i]) + to_float(b.x[i]));
  return sum;
}

// y = x · r · weight
template <bool vector, class T>
__device__ __forceinline__ void normalize(T *y, const Pack<T> &x, float r, const float *weight, int left) {
  float w[kChunk<T>];
  load_columns<vector>(w, weight, left);
  Pack<T> out;
  NT_UNROLL
  for (int i = 0; i < kChunk<T>; i++) out.x[i] = from_float<T>(to_float(x.x[i]) * r * w[i]);
  store_chunk<vector>(y, out, left);
}

// total = x + delta (rounded; delta null: x), rstd = 1 / sqrt(mean(total²) + eps), y = total · rstd · weight.
// Bytes an element: reads x, delta, writes total, y: 8 in bf16, 4 without delta. total may alias x or delta: each
// thread reads only what it has not written, or what it wrote itself.
template <class T, bool vector>
__global__ void __launch_bounds__(kMostThreads, vector ? 2 : 1)
    rmsnorm_forward_kernel(T *y, int64_t ldy, T *total, float *rstd, const T *x, const T *delta, const float *weight,
                           int64_t rows, int H, float eps) {
  constexpr int N = kChunk<T>;
  NT_SHARED(float, scratch, [32]);
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  x += row * H;
  y += row * ldy;
  total += delta == nullptr ? 0 : row * H;
  const int step = blockDim.x * N, first = threadIdx.x * N;
  Pack<T> held[kHeld];
  float squares = 0.0f;
  if (delta == nullptr) {
    NT_UNROLL
    for (int k = 0; k < kHeld; k++)
      if (first + k * step < H) held[k] = load_chunk<vector>(x + first + k * step, H - first - k * step);
  } else {
    delta += row * H;
    Pack<T> added[kHeld];
    NT_UNROLL
    for (int k = 0; k < kHeld; k++) {
      const int j = first + k * step;
      if (j >= H) continue;
      held[k] = load_chunk_once<vector>(x + j, H - j);
      added[k] = load_chunk_once<vector>(delta + j, H - j);
    }
    NT_UNROLL
    for (int k = 0; k < kHeld; k++) {
      const int j = first + k * step;
      if (j >= H) continue;
      held[k] = add(held[k], added[k]);
      store_chunk<vector>(total + j, held[k], H - j);
    }
  }
  NT_UNROLL
  for (int k = 0; k < kHeld; k++)
    if (first + k * step < H) squares = squares_of(held[k], squares);
#pragma unroll 1
  for (int64_t j = first + int64_t(kHeld) * step; j < H; j += step) {
    Pack<T> chunk = load_chunk<vector>(x + j, int(H - j));
    if (delta != nullptr) {
      chunk = add(chunk, load_chunk<vector>(delta + j, int(H - j)));
      store_chunk<vector>(total + j, chunk, int(H - j));
    }
    squares = squares_of(chunk, squares);
  }
  const float r = 1.0f / sqrtf(row_sum(squares, scratch) / float(H) + eps);
  if (threadIdx.x == 0) rstd[row] = r;
  NT_UNROLL
  for (int k = 0; k < kHeld; k++) {
    const int j = first + k * step;
    if (j < H) normalize<vector>(y + j, held[k], r, weight + j, H - j);
  }
  const T *source = delta == nullptr ? x : total;
#pragma unroll 1
  for (int64_t j = first + int64_t(kHeld) * step; j < H; j += step)
    normalize<vector>(y + j, load_chunk<vector>(source + j, int(H - j)), r, weight + j, int(H - j));
}

// Σ dy · weight · x over a chunk, added to `sum`.
template <bool vector, class T>
__device__ __forceinline__ float dot_of(const Pack<T> &dy, const Pack<T> &x, const float *weight, int left,
                                        float sum) {
  float w[kChunk<T>];
  load_columns<vector>(w, weight, left);
  NT_UNROLL
  for (int i = 0; i < kChunk<T>; i++) sum = fmaf(to_float(dy.x[i]) * w[i], to_float(x.x[i]), sum);
  return sum;
}

// dx = r · (dy · weight − x · c) + residual
template <bool vector, class T>
__device__ __forceinline__ void write_gradient(T *dx, const Pack<T> &dy, const Pack<T> &x, const float *weight,
                                               const T *residual, float r, float c, int left) {
  float w[kChunk<T>];
  load_columns<vector>(w, weight, left);
  Pack<T> extra, out;
  if (residual != nullptr) extra = load_chunk_once<vector>(residual, left);
  NT_UNROLL
  for (int i = 0; i < kChunk<T>; i++) {
    float g = r * fmaf(to_float(x.x[i]), -c, to_float(dy.x[i]) * w[i]);
    if (residual != nullptr) g += to_float(extra.x[i]);
    out.x[i] = from_float<T>(g);
  }
  store_chunk<vector>(dx, out, left);
}

// sums += dy · x · r
template <class T>
__device__ __forceinline__ void add_weight_gradient(float (&sums)[kChunk<T>], const Pack<T> &dy, const Pack<T> &x,
                                                    float r) {
  NT_UNROLL
  for (int i = 0; i < kChunk<T>; i++) sums[i] = fmaf(to_float(dy.x[i]) * r, to_float(x.x[i]), sums[i]);
}

// c = mean(dy · weight · x) · rstd²; dx = rstd · (dy · weight − x · c) + residual. Bytes an element: reads dy, x,
// residual, writes dx: 8 in bf16. dx may alias dy (with rows as far apart) or residual: a thread reads a chunk before it
// writes it. A part, that is a block or a warp of one, takes one row; with `weighted` `part_rows` consecutive rows, and it
// leaves Σ dy · x · rstd over them in partials[part]: sums in registers, but for columns that the registers do not hold.
template <class T, bool vector, bool weighted>
__global__ void __launch_bounds__(kMostThreads, vector && !weighted ? 2 : 1)
    rmsnorm_backward_kernel(T *dx, int64_t lddx, float *partials, const T *dy, const T *x, const float *weight,
                            const float *rstd, const T *residual, int64_t rows, int64_t part_rows, int H) {
  constexpr int N = kChunk<T>;
  NT_SHARED(float, scratch, [32]);
  const int64_t part = int64_t(blockIdx.x) * blockDim.y + threadIdx.y, begin = weighted ? part * part_rows : part;
  const int64_t end = !weighted ? begin + 1 : begin + part_rows < rows ? begin + part_rows : rows;
  if (begin >= rows) return;
  if (weighted) partials += part * H;
  const int step = blockDim.x * N, first = threadIdx.x * N;
  float sums[N] = {};
#pragma unroll 1  // registers are for loads on their way
  for (int64_t row = begin; row < end; row++) {
    const T *dy_row = dy + row * H, *x_row = x + row * H;
    const T *residual_row = residual == nullptr ? nullptr : residual + row * lddx;
    T *dx_row = dx + row * lddx;
    const float r = rstd[row];
    Pack<T> d, v;
    float dot = 0.0f;
    if (first < H) {
      d = load_chunk_once<vector>(dy_row + first, H - first);
      v = load_chunk_once<vector>(x_row + first, H - first);
      dot = dot_of<vector>(d, v, weight + first, H - first, dot);
    }
#pragma unroll 1
    for (int64_t j = first + int64_t(step); j < H; j += step) {
      const int left = int(H - j);
      dot = dot_of<vector>(load_chunk<vector>(dy_row + j, left), load_chunk<vector>(x_row + j, left), weight + j, left,
                           dot);
    }
    const float c = row_sum(dot, scratch) / float(H) * r * r;
    if (first < H) {
      if constexpr (weighted) add_weight_gradient(sums, d, v, r);
      write_gradient<vector>(dx_row + first, d, v, weight + first,
                             residual == nullptr ? nullptr : residual_row + first, r, c, H - first);
    }
#pragma unroll 1
    for (int64_t j = first + int64_t(step); j < H; j += step) {
      const int left = int(H - j);
      d = load_chunk<vector>(dy_row + j, left);
      v = load_chunk<vector>(x_row + j, left);
      if constexpr (weighted) {
        float tail[N] = {};
        if (row > begin) load_columns<vector>(tail, partials + j, left);
        add_weight_gradient(tail, d, v, r);
        store_columns<vector>(partials + j, tail, left);
      }
      write_gradient<vector>(dx_row + j, d, v, weight + j, residual == nullptr ? nullptr : residual_row + j, r, c,
                             left);
    }
  }
  if (weighted && first < H) store_columns<vector>(partials + first, sums, H - first);
}

template <class T>
int32_t rmsnorm_forward(nt_context *context, T *y, int64_t ldy, T *sum, float *rstd, const T *x, const T *delta,
                        const float *weight, int64_t rows, int64_t H, float eps) {
  const bool vector = H % 8 == 0 && ldy % 8 == 0 && aligned16(y, x, delta, delta == nullptr ? nullptr : sum, weight);
  const Shape shape = shape_of<T>(H, kHeld);
  auto *kernel = vector ? rmsnorm_forward_kernel<T, true> : rmsnorm_forward_kernel<T, false>;
  NT_CUDA(launch(kernel, dim3(unsigned(ceil_div(rows, shape.rows))), shape.block, 0, context->stream, y, ldy, sum, rstd,
                 x, delta, weight, rows, int(H), eps),
          "rmsnorm_forward");
  return NT_OK;
}

template <class T>
int32_t rmsnorm_backward(nt_context *context, T *dx, int64_t lddx, float *dweight, const T *dy, const T *x,
                         const float *weight, const float *rstd, const T *residual, int64_t rows, int64_t H) {
  const bool vector = H % 8 == 0 && lddx % 8 == 0 && aligned16(dx, dy, x, residual, weight);
  const Shape shape = shape_of<T>(H, 1);
  if (dweight == nullptr) {
    auto *kernel = vector ? rmsnorm_backward_kernel<T, true, false> : rmsnorm_backward_kernel<T, false, false>;
    NT_CUDA(launch(kernel, dim3(unsigned(ceil_div(rows, shape.rows))), shape.block, 0, context->stream, dx, lddx,
                   nullptr, dy, x, weight, rstd, residual, rows, int64_t(1), int(H)),
            "rmsnorm_backward");
    return NT_OK;
  }
  // As many parts as run at once, and no more than the workspace holds.
  const int64_t blocks = context->multiprocessors * ceil_div(1024, shape.block.x * shape.rows);
  int64_t parts = blocks * shape.rows < rows ? blocks * shape.rows : rows;
  const int64_t room = context->workspace_bytes / (H * int64_t(sizeof(float)));
  NT_CHECK(room > 0, "rmsnorm_backward: rows of %lld columns are too long for the workspace", (long long)H);
  if (parts > room) parts = room;
  const int64_t part_rows = ceil_div(rows, parts);
  parts = ceil_div(rows, part_rows);
  auto *partials = static_cast<float *>(context->workspace);
  auto *kernel = vector ? rmsnorm_backward_kernel<T, true, true> : rmsnorm_backward_kernel<T, false, true>;
  NT_CUDA(launch(kernel, dim3(unsigned(ceil_div(parts, shape.rows))), shape.block, 0, context->stream, dx, lddx,
                 partials, dy, x, weight, rstd, residual, rows, part_rows, int(H)),
          "rmsnorm_backward");
  return add_partials(context, dweight, partials, parts, H, "rmsnorm_backward: dweight");
}

}  // namespace
}  // namespace nt

#include "../entry/rmsnorm.h"
