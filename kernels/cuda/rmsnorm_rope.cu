// RMSNorm of each head (arXiv 1910.07467) and RoPE behind it, as Qwen3 has them for q and k. A head's values stay in
// registers, in float32, between the two; the backward pass computes rstd again, from the row it reads anyway.
#include "../entry/arguments.h"
#include "context.h"
#include "partials.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 128;
constexpr int kBackwardBlocks = 4;  // that share a multiprocessor: sums and what they are made of take 128 registers

template <class T>
struct Arguments {
  T *x;  // forward: the heads; backward: their gradient
  int64_t ldx;
  const float *weight, *cosine, *sine;
  const int32_t *positions;
  int64_t rows;  // tokens · heads
  int heads, half, lanes;
  float eps;
};

// What a lane holds of a head: the same chunk of both halves. `lanes` neighbors (a power of two) share a head.
template <class T>
struct Halves {
  float a[kChunk<T>], b[kChunk<T>];
};

// One lane's place: `row` counts heads over all tokens, `i` columns of half a head. Where there is no such head or
// column the lane only takes part in sums.
struct Lane {
  int64_t row, token;
  int head, i, left;
  bool works;
};
template <class T>
__device__ __forceinline__ Lane lane_at(const Arguments<T> &a, int64_t row, int64_t end) {
  const int i = int(threadIdx.x) % a.lanes * kChunk<T>;
  const bool works = row < end && i < a.half;
  const ChunkPlace place = chunk_place(uint64_t(works ? row : 0), uint32_t(a.heads));
  return {row, place.row, int(place.chunk), i, a.half - i, works};
}

template <bool vector, class T, class In>
__device__ __forceinline__ Halves<T> load_halves(const In *head, const Arguments<T> &a, const Lane &lane) {
  Halves<T> x;
  load_columns<vector>(x.a, head + lane.i, lane.left);
  load_columns<vector>(x.b, head + a.half + lane.i, lane.left);
  return x;
}

template <bool vector, class T>
__device__ __forceinline__ void store_halves(T *head, const Halves<T> &x, const Arguments<T> &a, const Lane &lane) {
  Pack<T> first, second;
  NT_UNROLL
  for (int k = 0; k < kChunk<T>; k++) {
    first.x[k] = from_float<T>(x.a[k]);
    second.x[k] = from_float<T>(x.b[k]);
  }
  store_chunk<vector>(head + lane.i, first, lane.left);
  store_chunk<vector>(head + a.half + lane.i, second, lane.left);
}

// Sums over the lanes of a head, in all of them.
__device__ __forceinline__ float head_sum(float x, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

template <class T>
__device__ __forceinline__ float rstd_of(const Halves<T> &x, const Arguments<T> &a) {
  float squares = 0.0f;
  NT_UNROLL
  for (int k = 0; k < kChunk<T>; k++) squares = fmaf(x.a[k], x.a[k], fmaf(x.b[k], x.b[k], squares));
  return 1.0f / sqrtf(head_sum(squares, a.lanes) / float(2 * a.half) + a.eps);
}

// (a, b) → (a·cos − b·sin, b·cos + a·sin); sign −1 turns back. A position below 0, which no host can see in time, makes
// NaN.
template <bool vector, class T>
__device__ __forceinline__ void rotate(Halves<T> &x, const Arguments<T> &a, const Lane &lane, float sign) {
  constexpr int N = kChunk<T>;
  const int64_t place = int64_t(a.positions[lane.token]) * a.half + lane.i;
  float c[N], s[N];
  if (place >= 0) {
    load_columns<vector>(c, a.cosine + place, lane.left);
    load_columns<vector>(s, a.sine + place, lane.left);
  } else {
    NT_UNROLL
    for (int k = 0; k < N; k++) c[k] = s[k] = NAN;
  }
  NT_UNROLL
  for (int k = 0; k < N; k++) {
    const float p = x.a[k], q = x.b[k], turn = sign * s[k];
    x.a[k] = fmaf(p, c[k], -(q * turn));
    x.b[k] = fmaf(q, c[k], p * turn);
  }
}

// Bytes an element in bf16: one read, one write, another with `kept`: 6.
template <class T, bool vector>
__global__ void __launch_bounds__(kThreads, 8)
    rmsnorm_rope_forward_kernel(const Arguments<T> a, T *kept, int64_t ldkept) {
  const int64_t row = int64_t(blockIdx.x) * (kThreads / a.lanes) + threadIdx.x / a.lanes;
  const Lane lane = lane_at(a, row, a.rows);
  T *const head = a.x + lane.token * a.ldx + int64_t(lane.head) * 2 * a.half;
  Halves<T> x = {}, weight = {};
  if (lane.works) {
    x = load_halves<vector, T>(head, a, lane);
    weight = load_halves<vector, T>(a.weight, a, lane);
  }
  const float r = rstd_of(x, a);
  if (!lane.works) return;
  if (kept != nullptr) store_halves<vector>(kept + lane.token * ldkept + int64_t(lane.head) * 2 * a.half, x, a, lane);
  NT_UNROLL
  for (int k = 0; k < kChunk<T>; k++) {
    x.a[k] = x.a[k] * r * weight.a[k];
    x.b[k] = x.b[k] * r * weight.b[k];
  }
  rotate<vector>(x, a, lane, 1.0f);
  store_halves<vector>(head, x, a, lane);
}

// A block takes `part_rows` consecutive heads, as many at a time as it has room for. With `weighted` it leaves
// Σ g · x · rstd over them in partials[block]: each lane sums its columns, then its columns' sums are added up in order
// (shared: [groups of lanes][head_dim]). Bytes an element: reads dx and x, writes dx: 6 in bf16.
template <class T, bool vector, bool weighted>
__global__ void __launch_bounds__(kThreads, kBackwardBlocks)
    rmsnorm_rope_backward_kernel(const Arguments<T> a, float *partials, const T *x, int64_t ldx, int64_t part_rows) {
  constexpr int N = kChunk<T>;
  const int groups = kThreads / a.lanes, group = int(threadIdx.x) / a.lanes, head_dim = 2 * a.half;
  const int64_t begin = int64_t(blockIdx.x) * part_rows;
  const int64_t end = begin + part_rows < a.rows ? begin + part_rows : a.rows;
  Halves<T> sums = {};
  for (int64_t first = begin; first < end; first += groups) {
    const Lane lane = lane_at(a, first + group, end);
    T *const head = a.x + lane.token * a.ldx + int64_t(lane.head) * head_dim;
    Halves<T> g = {}, v = {}, weight = {};
    if (lane.works) {
      g = load_halves<vector, T>(head, a, lane);
      v = load_halves<vector, T>(x + lane.token * ldx + int64_t(lane.head) * head_dim, a, lane);
      weight = load_halves<vector, T>(a.weight, a, lane);
      rotate<vector>(g, a, lane, -1.0f);
    }
    const float r = rstd_of(v, a);
    float dot = 0.0f;
    NT_UNROLL
    for (int k = 0; k < N; k++) dot = fmaf(g.a[k] * weight.a[k], v.a[k], fmaf(g.b[k] * weight.b[k], v.b[k], dot));
    const float c = head_sum(dot, a.lanes) / float(head_dim) * r * r;
    if (!lane.works) continue;
    NT_UNROLL
    for (int k = 0; k < N; k++) {
      if (weighted) {
        sums.a[k] = fmaf(g.a[k] * r, v.a[k], sums.a[k]);
        sums.b[k] = fmaf(g.b[k] * r, v.b[k], sums.b[k]);
      }
      g.a[k] = r * fmaf(v.a[k], -c, g.a[k] * weight.a[k]);
      g.b[k] = r * fmaf(v.b[k], -c, g.b[k] * weight.b[k]);
    }
    store_halves<vector>(head, g, a, lane);
  }
  if constexpr (weighted) {
    NT_SHARED(float, all, [2 * N * kThreads]);  // lanes · N is at most twice half a head
    const int i = int(threadIdx.x) % a.lanes * N;
    NT_UNROLL
    for (int k = 0; k < N; k++) {
      if (i + k >= a.half) break;
      all[group * head_dim + i + k] = sums.a[k];
      all[group * head_dim + a.half + i + k] = sums.b[k];
    }
    __syncthreads();
    for (int j = threadIdx.x; j < head_dim; j += kThreads) {
      float sum = 0.0f;
      for (int i = 0; i < groups; i++) sum += all[i * head_dim + j];
      partials[int64_t(blockIdx.x) * head_dim + j] = sum;
    }
  }
}

template <class T>
Arguments<T> arguments_of(void *x, int64_t ldx, const float *weight, const float *cosine, const float *sine,
                          const int32_t *positions, int64_t tokens, int64_t heads, int64_t head_dim, float eps) {
  const int half = int(head_dim / 2);
  int lanes = 1;
  while (lanes * kChunk<T> < half) lanes *= 2;  // 32 at most: half ≤ 128, chunks of 4
  return {static_cast<T *>(x), ldx, weight, cosine, sine, positions, tokens * heads, int(heads), half, lanes, eps};
}

template <class T>
bool is_vector(const Arguments<T> &a, const void *other, int64_t ldother) {
  return a.half % 8 == 0 && a.ldx % 8 == 0 && (other == nullptr || ldother % 8 == 0) &&
         aligned16(a.x, other, a.weight, a.cosine, a.sine);
}

template <class T>
int32_t forward(nt_context *context, const Arguments<T> &arguments, T *kept, int64_t ldkept) {
  auto *kernel = is_vector(arguments, kept, ldkept) ? rmsnorm_rope_forward_kernel<T, true>
                                                    : rmsnorm_rope_forward_kernel<T, false>;
  const int64_t blocks = ceil_div(arguments.rows, kThreads / arguments.lanes);
  NT_CUDA(launch(kernel, dim3(unsigned(blocks)), dim3(kThreads), 0, context->stream, arguments, kept, ldkept),
          "rmsnorm_rope_forward");
  return NT_OK;
}

template <class T>
int32_t backward(nt_context *context, const Arguments<T> &arguments, float *dweight, const T *x, int64_t ldx) {
  const char *what = "rmsnorm_rope_backward";
  const bool vector = is_vector(arguments, x, ldx);
  const int64_t groups = kThreads / arguments.lanes, rows = arguments.rows;
  auto run = [&](auto *kernel, int64_t part_rows) {
    return launch(kernel, dim3(unsigned(ceil_div(rows, part_rows))), dim3(kThreads), 0, context->stream, arguments,
                  static_cast<float *>(context->workspace), x, ldx, part_rows);
  };
  if (dweight == nullptr) {
    NT_CUDA(run(vector ? rmsnorm_rope_backward_kernel<T, true, false> : rmsnorm_rope_backward_kernel<T, false, false>,
                groups),
            what);
    return NT_OK;
  }
  // As many parts as run at once; partial sums of a head fit the workspace many times over.
  const int64_t part_rows = ceil_div(ceil_div(rows, kBackwardBlocks * int64_t(context->multiprocessors)), groups) * groups;
  NT_CUDA(run(vector ? rmsnorm_rope_backward_kernel<T, true, true> : rmsnorm_rope_backward_kernel<T, false, true>,
              part_rows),
          what);
  return add_partials(context, dweight, static_cast<const float *>(context->workspace), ceil_div(rows, part_rows),
                      2 * arguments.half, "rmsnorm_rope_backward: dweight");
}

template <class E>
int32_t rmsnorm_rope_forward(nt_context *context, E *x, int64_t ldx, E *kept, int64_t ldkept, const float *weight,
                             const float *cosine, const float *sine, const int32_t *positions, int64_t T,
                             int64_t heads, int64_t head_dim, float eps) {
  return forward(context, arguments_of<E>(x, ldx, weight, cosine, sine, positions, T, heads, head_dim, eps), kept,
                 ldkept);
}

template <class E>
int32_t rmsnorm_rope_backward(nt_context *context, E *dx, int64_t lddx, float *dweight, const E *x, int64_t ldx,
                              const float *weight, const float *cosine, const float *sine, const int32_t *positions,
                              int64_t T, int64_t heads, int64_t head_dim, float eps) {
  return backward(context, arguments_of<E>(dx, lddx, weight, cosine, sine, positions, T, heads, head_dim, eps), dweight,
                  x, ldx);
}

}  // namespace
}  // namespace nt

#include "../entry/rmsnorm_rope.h"
