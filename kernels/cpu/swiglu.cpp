// SwiGLU (arXiv 2002.05202): h = silu(gate) · up, silu(g) = g · σ(g).
#include "context.h"
#include "exp2.h"
#include "parallel.h"
#include "prefetch.h"
#include "skinny.h"

namespace nt {
namespace {

// h[I] from gate[I], up[I]
template <typename T_>
void forward_row(T_ *h, const T_ *gate, const T_ *up, int64_t I) {
  auto silu_up = [](Vec g, Vec u) { return g * sigmoid_for<T_>(g) * u; };
  auto at = [&](int64_t i) { return silu_up(load(gate + i), load(up + i)); };
  int64_t i = 0;
  for (; i + 2 * kLanes <= I; i += 2 * kLanes) {
    prefetch_ahead<2 * kLanes>(gate + i);
    prefetch_ahead<2 * kLanes>(up + i);
    prefetch_to_write<2 * kLanes>(h + i);
    store_rounded(h + i, at(i), at(i + kLanes));
  }
  for (; i + kLanes <= I; i += kLanes) store_rounded(h + i, at(i));
  if (i < I) store_part(h + i, silu_up(load_part(gate + i, I - i), load_part(up + i, I - i)), I - i);
}

struct Gradient {
  Vec gate, up, h;
};

// With s = σ(g): dgate = dh · up · s · (1 + g · (1 − s)), dup = dh · g · s.
template <typename T_>
inline Gradient gradient(Vec g, Vec u, Vec dh) {
  Vec s = sigmoid_for<T_>(g), silu = g * s;
  Vec slope = fma(silu, splat(1.0f) - s, s);
  return {dh * u * slope, dh * silu, silu * u};
}

template <typename T_>
void backward_row(T_ *gate, T_ *up, T_ *h, const T_ *dh, int64_t I) {
  auto at = [&](int64_t i) { return gradient<T_>(load(gate + i), load(up + i), load(dh + i)); };
  int64_t i = 0;
  for (; i + 2 * kLanes <= I; i += 2 * kLanes) {
    prefetch_to_write<2 * kLanes>(gate + i);
    prefetch_to_write<2 * kLanes>(up + i);
    prefetch_to_write<2 * kLanes>(dh + i);
    const Gradient a = at(i), b = at(i + kLanes);
    store_rounded(gate + i, a.gate, b.gate);
    store_rounded(up + i, a.up, b.up);
    if (h != nullptr) store_rounded(h + i, a.h, b.h);
  }
  for (; i + kLanes <= I; i += kLanes) {
    const Gradient d = at(i);
    store_rounded(gate + i, d.gate);
    store_rounded(up + i, d.up);
    if (h != nullptr) store_rounded(h + i, d.h);
  }
  if (i == I) return;
  int64_t n = I - i;
  Gradient d = gradient<T_>(load_part(gate + i, n), load_part(up + i, n), load_part(dh + i, n));
  store_part(gate + i, d.gate, n);
  store_part(up + i, d.up, n);
  if (h != nullptr) store_part(h + i, d.h, n);
}

template <typename T_>
int32_t swiglu_forward(nt_context *context, T_ *h, int64_t ldh, const T_ *gate_up, int64_t ldgate_up, int64_t T,
                       int64_t I) {
  parallel_for(context->threads, T, 1 + 8192 / I, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const T_ *gate = gate_up + t * ldgate_up;
      forward_row(h + t * ldh, gate, gate + I, I);
    }
  });
  return NT_OK;
}

template <typename T_>
int32_t swiglu_backward(nt_context *context, T_ *gate_up, int64_t ldgate_up, T_ *h, const T_ *dh, int64_t lddh,
                        int64_t T, int64_t I) {
  parallel_for(context->threads, T, 1 + 8192 / I, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      T_ *gate = gate_up + t * ldgate_up;
      backward_row(gate, gate + I, h == nullptr ? nullptr : h + t * lddh, dh + t * lddh, I);
    }
  });
  return NT_OK;
}

template <typename T_>
int32_t swiglu_backward_lora(nt_context *context, T_ *gate_up, int64_t ldgate_up, float *da, const void *g, int64_t ldg,
                             T_ *dh, int64_t lddh, int64_t T, int64_t R, int64_t I) {
  const int32_t dtype = sizeof(T_) == 2 ? NT_BF16 : NT_F32;
  return by_outer_rows(context, dtype, T, da, R * I, [&](int64_t first, int64_t rows, float *part) {
    T_ *own = dh + first * lddh;
    const int32_t status = swiglu_backward(context, gate_up + first * ldgate_up, ldgate_up, own, own, lddh, rows, I);
    if (status != NT_OK) return status;
    const void *own_g = columns_from(g, dtype, first * ldg);
    return outer_product(context, dtype, part, false, own_g, ldg, own, lddh, rows, R, I);
  });
}

}  // namespace
}  // namespace nt

#include "../entry/swiglu.h"
