// RMSNorm of each head (arXiv 1910.07467) and RoPE behind it, as Qwen3 has them for q and k. A head's values stay in
// float32 between the two; the backward pass computes rstd again, from the row it reads anyway.
#include <math.h>
#include <string.h>

#include "../entry/arguments.h"
#include "context.h"
#include "parallel.h"
#include "rope.h"
#include "scratch.h"

namespace nt {
namespace {

// A head in float32, zeros behind it up to whole vectors.
struct Row {
  float values[kMostNormedHeadDim];
  float &operator[](int64_t i) { return values[i]; }
};
static_assert(kMostNormedHeadDim % kLanes == 0, "rows are worked on in whole vectors");

template <typename T_>
void read(Row &row, const T_ *x, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(&row[i], load(x + i));
  if (i < n) store(&row[i], load_part(x + i, n - i));
}

template <typename T_>
void write(T_ *x, Row &row, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, load(&row[i]));
  if (i < n) store_part(x + i, load(&row[i]), n - i);
}

float rstd_of(Row &x, int64_t n, float eps) {
  Vec squares = Vec{};
  for (int64_t i = 0; i < n; i += kLanes) squares = fma(load(&x[i]), load(&x[i]), squares);
  return 1.0f / sqrtf(sum(squares) / float(n) + eps);
}

template <typename T_>
struct Call {
  T_ *x;  // forward: the heads; backward: their gradient
  int64_t ldx;
  const float *weight, *cosine, *sine;
  const int32_t *positions;
  int64_t T, heads, head_dim;
  float eps;

  void rotate_head(Row &row, int64_t t, float sign) const {
    const int64_t half = head_dim / 2, at = positions[t] * half;
    rotate(&row[0], &row[half], cosine + at, sine + at, half, sign);
  }
};

template <typename T_>
int32_t rmsnorm_rope_forward(nt_context *context, T_ *heads_of_x, int64_t ldx, T_ *kept, int64_t ldkept,
                             const float *weight_row, const float *cosine, const float *sine,
                             const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim, float eps) {
  const Call<T_> call = {heads_of_x, ldx, weight_row, cosine, sine, positions, T, heads, head_dim, eps};
  const int64_t n = call.head_dim;
  parallel_for(context->threads, call.T, 1 + 8192 / (call.heads * n), [&](int64_t begin, int64_t end) {
    Row weight, row;
    read(weight, call.weight, n);
    for (int64_t t = begin; t < end; t++)
      for (int64_t h = 0; h < call.heads; h++) {
        T_ *x = call.x + t * call.ldx + h * n;
        if (kept != nullptr) memcpy(kept + t * ldkept + h * n, x, size_t(n) * sizeof(T_));
        read(row, x, n);
        const Vec r = splat(rstd_of(row, n, call.eps));
        for (int64_t i = 0; i < n; i += kLanes) store(&row[i], load(&row[i]) * r * load(&weight[i]));
        call.rotate_head(row, t, 1.0f);
        write(x, row, n);
      }
  });
  return NT_OK;
}

thread_local Scratch scratch;

// Where dweight is wanted, each thread sums over its tokens; then these sums are added up in the order of the threads.
template <typename T_>
int32_t rmsnorm_rope_backward(nt_context *context, T_ *heads_of_dx, int64_t lddx, float *dweight, const T_ *x,
                              int64_t ldx, const float *weight_row, const float *cosine, const float *sine,
                              const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim, float eps) {
  const Call<T_> call = {heads_of_dx, lddx, weight_row, cosine, sine, positions, T, heads, head_dim, eps};
  float *partials = nullptr;  // [threads, head_dim]
  if (dweight != nullptr) {
    const int64_t bytes = context->threads * head_dim * int64_t(sizeof(float));
    partials = static_cast<float *>(scratch.at_least(bytes));
    if (partials == nullptr)
      return fail(NT_OUT_OF_MEMORY, "rmsnorm_rope_backward: out of memory: %lld bytes of scratch", (long long)bytes);
  }
  const int64_t n = call.head_dim, useful = 1 + call.T * call.heads * n / 8192;
  int team = 1;
  on_threads(useful < context->threads ? int(useful) : context->threads, [&](int thread, int size) {
    if (thread == 0) team = size;
    Row weight, g, v, sums = {};
    read(weight, call.weight, n);
    const Range tokens = piece(call.T, thread, size);
    for (int64_t t = tokens.begin; t < tokens.end; t++)
      for (int64_t h = 0; h < call.heads; h++) {
        T_ *dx = call.x + t * call.ldx + h * n;
        read(g, dx, n);
        call.rotate_head(g, t, -1.0f);
        read(v, x + t * ldx + h * n, n);
        const float rstd = rstd_of(v, n, call.eps);
        Vec dot = Vec{};
        for (int64_t i = 0; i < n; i += kLanes) dot = fma(load(&g[i]) * load(&weight[i]), load(&v[i]), dot);
        const Vec r = splat(rstd), slope = splat(-sum(dot) / float(n) * rstd * rstd);
        for (int64_t i = 0; i < n; i += kLanes) {
          const Vec gradient = load(&g[i]), value = load(&v[i]);
          store(&sums[i], fma(gradient * r, value, load(&sums[i])));
          store(&g[i], r * fma(value, slope, gradient * load(&weight[i])));
        }
        write(dx, g, n);
      }
    if (partials != nullptr) write(partials + thread * n, sums, n);
  });
  if (partials == nullptr) return NT_OK;
  for (int i = 0; i < team; i++)
    for (int64_t j = 0; j < n; j++) dweight[j] += partials[i * n + j];
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/rmsnorm_rope.h"
