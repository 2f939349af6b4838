// The numbers of a step, for AdamW with any state.
#pragma once
#include <math.h>

#include "arguments.h"
#include "entry.h"

namespace nt {

inline int32_t adamw_step(const char *op, float learning_rate, float beta1, float beta2, float eps, float weight_decay,
                          int64_t step, AdamwStep &s) {
  NT_CHECK(step >= 1, "%s: step counts from 1, got %lld", op, (long long)step);
  NT_CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "%s: betas must be in [0, 1), got %g and %g", op,
           double(beta1), double(beta2));
  s.rest1 = float(1.0 - double(beta1));
  s.beta2 = beta2;
  s.rest2 = float(1.0 - double(beta2));
  s.decay = float(1.0 - double(learning_rate) * double(weight_decay));
  s.size = float(double(learning_rate) / (1.0 - pow(double(beta1), double(step))));
  s.root = float(sqrt(1.0 - pow(double(beta2), double(step))));
  s.eps = eps;
  return NT_OK;
}

}  // namespace nt
