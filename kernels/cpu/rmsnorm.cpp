// RMSNorm (arXiv 1910.07467), with the residual sum before it.
#include <math.h>
#include <string.h>

#include "context.h"
#include "parallel.h"
#include "prefetch.h"
#include "scratch.h"
#include "vec.h"

namespace nt {
namespace {

// The sum of four vectors' lanes: four chains hide the latency of the addition, and shorten the rounding error.
inline float sum4(const Vec *v) { return sum((v[0] + v[1]) + (v[2] + v[3])); }

// Rows at a time: while one waits for the sum over its columns, others are worked on. What they read twice stays in the
// L1 cache.
constexpr int64_t kMostRows = 4;
template <typename T_>
int64_t rows_together(int64_t H) {
  const int64_t fit = (1 << 13) / (H * int64_t(sizeof(T_)));
  return fit < 1 ? 1 : fit < kMostRows ? fit : kMostRows;
}

// ‖x + delta‖², where x + delta, rounded, goes to `total`; without delta ‖x‖².
template <typename T_>
float add_and_square(T_ *total, const T_ *x, const T_ *delta, int64_t H) {
  Vec squares[4] = {};
  auto added = [&](int64_t j) { return load(x + j) + load(delta + j); };
  auto square = [&](Vec &squared, int64_t j) {
    const Vec v = load((delta == nullptr ? x : total) + j);
    squared = fma(v, v, squared);
  };
  int64_t j = 0;
  for (; j + 4 * kLanes <= H; j += 4 * kLanes) {
    prefetch_ahead<4 * kLanes>(x + j);
    if (delta != nullptr) {
      prefetch_ahead<4 * kLanes>(delta + j);
      prefetch_to_write<4 * kLanes>(total + j);
      for (int k = 0; k < 4; k += 2)
        store_rounded(total + j + k * kLanes, added(j + k * kLanes), added(j + (k + 1) * kLanes));
    }
    for (int k = 0; k < 4; k++) square(squares[k], j + k * kLanes);
  }
  for (; j + kLanes <= H; j += kLanes) {
    if (delta != nullptr) store_rounded(total + j, added(j));
    square(squares[0], j);
  }
  if (j < H) {
    int64_t n = H - j;
    Vec v = load_part(x + j, n);
    if (delta != nullptr) {
      store_part(total + j, v + load_part(delta + j, n), n);
      v = load_part(total + j, n);
    }
    squares[1] = fma(v, v, squares[1]);
  }
  return sum4(squares);
}

// y = x · r · weight
template <typename T_>
void scale_row(T_ *y, const T_ *x, float r, const float *weight, int64_t H) {
  auto at = [&](int64_t j) { return load(x + j) * splat(r) * load(weight + j); };
  int64_t j = 0;
  for (; j + 2 * kLanes <= H; j += 2 * kLanes) {
    prefetch_to_write<2 * kLanes>(y + j);
    store_rounded(y + j, at(j), at(j + kLanes));
  }
  for (; j + kLanes <= H; j += kLanes) store_rounded(y + j, at(j));
  if (j < H) store_part(y + j, load_part(x + j, H - j) * splat(r) * load_part(weight + j, H - j), H - j);
}

template <typename T_>
int32_t rmsnorm_forward(nt_context *context, T_ *y, int64_t ldy, T_ *total, float *rstd, const T_ *x, const T_ *delta,
                        const float *weight, int64_t T, int64_t H, float eps) {
  const int64_t together = rows_together<T_>(H);
  const T_ *in = delta == nullptr ? x : total;
  parallel_for(context->threads, T, 1 + 8192 / H, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += together) {
      const int64_t last = first + together < end ? first + together : end;
      for (int64_t t = first; t < last; t++) {
        const T_ *more = delta == nullptr ? nullptr : delta + t * H;
        rstd[t] = 1.0f / sqrtf(add_and_square(total + t * H, x + t * H, more, H) / float(H) + eps);
      }
      for (int64_t t = first; t < last; t++) scale_row(y + t * ldy, in + t * H, rstd[t], weight, H);
    }
  });
  return NT_OK;
}

// Σ dy · weight · x over a row
template <typename T_>
float dot_row(const T_ *dy, const T_ *x, const float *weight, int64_t H) {
  Vec dots[4] = {};
  int64_t j = 0;
  for (; j + 4 * kLanes <= H; j += 4 * kLanes) {
    prefetch_ahead<4 * kLanes>(dy + j);
    prefetch_ahead<4 * kLanes>(x + j);
    for (int k = 0; k < 4; k++) {
      int64_t i = j + k * kLanes;
      dots[k] = fma(load(dy + i) * load(weight + i), load(x + i), dots[k]);
    }
  }
  for (; j + kLanes <= H; j += kLanes) dots[0] = fma(load(dy + j) * load(weight + j), load(x + j), dots[0]);
  if (j < H) {
    int64_t n = H - j;
    dots[1] = fma(load_part(dy + j, n) * load_part(weight + j, n), load_part(x + j, n), dots[1]);
  }
  return sum4(dots);
}

// One row's dx from its dot product; its part of dweight is added to `partial` (null: not wanted).
template <typename T_>
void backward_row(T_ *dx, float *partial, const T_ *dy, const T_ *x, const float *weight, float rstd, float dot,
                  const T_ *residual, int64_t H) {
  const Vec r = splat(rstd), slope = splat(-(dot / float(H) * rstd * rstd));
  auto at = [&](int64_t j) {
    Vec d = load(dy + j), v = load(x + j);
    Vec g = r * fma(v, slope, d * load(weight + j));
    if (residual != nullptr) g += load(residual + j);
    if (partial != nullptr) store(partial + j, fma(d * r, v, load(partial + j)));
    return g;
  };
  int64_t j = 0;
  for (; j + 2 * kLanes <= H; j += 2 * kLanes) {
    if (residual != nullptr && residual != dx) prefetch_ahead<2 * kLanes>(residual + j);
    prefetch_to_write<2 * kLanes>(dx + j);
    const Vec low = at(j), high = at(j + kLanes);
    store_rounded(dx + j, low, high);
  }
  for (; j + kLanes <= H; j += kLanes) store_rounded(dx + j, at(j));
  if (j == H) return;
  int64_t n = H - j;
  Vec d = load_part(dy + j, n), v = load_part(x + j, n);
  Vec g = r * fma(v, slope, d * load_part(weight + j, n));
  if (residual != nullptr) g += load_part(residual + j, n);
  if (partial != nullptr) store_part(partial + j, fma(d * r, v, load_part(partial + j, n)), n);
  store_part(dx + j, g, n);
}

thread_local Scratch scratch;

// Where dweight is wanted, each thread sums over its rows; then these sums are added up in the order of the threads.
template <typename T_>
int32_t rmsnorm_backward(nt_context *context, T_ *dx, int64_t lddx, float *dweight, const T_ *dy, const T_ *x,
                         const float *weight, const float *rstd, const T_ *residual, int64_t T, int64_t H) {
  float *partials = nullptr;  // [threads, H]
  if (dweight != nullptr) {
    const int64_t bytes = context->threads * H * int64_t(sizeof(float));
    partials = static_cast<float *>(scratch.at_least(bytes));
    if (partials == nullptr)
      return fail(NT_OUT_OF_MEMORY, "rmsnorm_backward: out of memory: %lld bytes of scratch", (long long)bytes);
  }
  int64_t useful = 1 + T * H / 8192;
  int n = useful < context->threads ? int(useful) : context->threads;
  int team = 1;
  const int64_t together = rows_together<T_>(H);
  on_threads(n, [&](int thread, int size) {
    if (thread == 0) team = size;
    float *partial = partials == nullptr ? nullptr : partials + thread * H;
    if (partial != nullptr) memset(partial, 0, size_t(H) * sizeof(float));
    const Range rows = piece(T, thread, size);
    for (int64_t first = rows.begin; first < rows.end; first += together) {
      const int64_t last = first + together < rows.end ? first + together : rows.end;
      float dots[kMostRows];
      for (int64_t t = first; t < last; t++) dots[t - first] = dot_row(dy + t * H, x + t * H, weight, H);
      for (int64_t t = first; t < last; t++) {
        const T_ *extra = residual == nullptr ? nullptr : residual + t * lddx;
        backward_row(dx + t * lddx, partial, dy + t * H, x + t * H, weight, rstd[t], dots[t - first], extra, H);
      }
    }
  });
  if (partials == nullptr) return NT_OK;
  parallel_for(context->threads, H, 4096, [&](int64_t begin, int64_t end) {
    for (int i = 0; i < team; i++)
      for (int64_t j = begin; j < end; j++) dweight[j] += partials[i * H + j];
  });
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/rmsnorm.h"
