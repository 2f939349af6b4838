// What a step of AdamW does to a parameter.
#pragma once
#include "../entry/arguments.h"
#include "gpu.h"

namespace nt {

// m += (1 − β₁)(g − m); v = β₂·v + (1 − β₂)·g²; p = decay·p − size · m / (sqrt(v)/root + eps).
__device__ __forceinline__ void adamw_update(float &p, float g, float &m, float &v, const AdamwStep &s) {
  m = fmaf(g - m, s.rest1, m);
  v = fmaf(g * s.rest2, g, v * s.beta2);
  const float denominator = sqrtf(v) / s.root + s.eps;
  p = fmaf(-s.size, m / denominator, p * s.decay);
}

}  // namespace nt
