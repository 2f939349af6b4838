// SwiGLU's gradient (arXiv 2002.05202), a chunk at a time.
#pragma once
#include "rows.h"

namespace nt {

// 1 / (1 + e⁻ˣ), within a few ulp of 1: two special-function instructions.
__device__ __forceinline__ float sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + exp2_fast(x * -1.44269504088896341f));
}

// With s = σ(g): gate becomes dgate = dh · u · s · (1 + g · (1 − s)), up becomes dup = dh · g · s, dh becomes h = g · s · u.
template <class T>
__device__ __forceinline__ void swiglu_backward_chunk(Pack<T> &gate, Pack<T> &up, Pack<T> &dh) {
  NT_UNROLL
  for (int k = 0; k < kChunk<T>; k++) {
    const float x = to_float(gate.x[k]), y = to_float(up.x[k]), slope_in = to_float(dh.x[k]);
    const float s = sigmoid(x), silu = x * s;
    gate.x[k] = from_float<T>(slope_in * y * fmaf(silu, 1.0f - s, s));
    up.x[k] = from_float<T>(slope_in * silu);
    dh.x[k] = from_float<T>(silu * y);
  }
}

}  // namespace nt
