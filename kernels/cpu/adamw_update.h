// What a step of AdamW does to a vector of parameters.
#pragma once
#include "../entry/arguments.h"
#include "vec.h"

namespace nt {

// kLanes parameters; returns their new values.
inline Vec adamw_update(Vec p, Vec g, Vec &m, Vec &v, const AdamwStep &s, float gradient_scale) {
  g *= splat(gradient_scale);
  m = fma(g - m, splat(s.rest1), m);
  v = fma(g * splat(s.rest2), g, v * splat(s.beta2));
  Vec denominator = square_root(v) / splat(s.root) + splat(s.eps);
  return fma(splat(-s.size), m / denominator, p * splat(s.decay));
}

}  // namespace nt
