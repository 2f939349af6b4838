#pragma once
#include <math.h>

#include "arguments.h"
#include "entry.h"

NT_API int32_t nt_gradient_norm(nt_context *context, float *result, const float *gradients, int64_t n,
                                float max_norm) {
  NT_TRY(nt::check_count("gradient_norm", "n", n));
  if (n == 0) return NT_OK;
  NT_CHECK(result != nullptr && gradients != nullptr, "gradient_norm: result and gradients must not be null");
  return nt::gradient_norm(context, result, gradients, n, max_norm);
}

NT_API int32_t nt_adamw(nt_context *context, float *parameters, void *copy, const float *gradients, float *m, float *v,
                        int64_t n, float learning_rate, float beta1, float beta2, float eps, float weight_decay,
                        int64_t step, const float *gradient_scale) {
  NT_TRY(nt::check_count("adamw", "n", n));
  NT_CHECK(step >= 1, "adamw: step counts from 1, got %lld", (long long)step);
  NT_CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "adamw: betas must be in [0, 1), got %g and %g",
           double(beta1), double(beta2));
  if (n == 0) return NT_OK;
  NT_CHECK(parameters != nullptr && gradients != nullptr && m != nullptr && v != nullptr,
           "adamw: parameters, gradients, m and v must not be null");
  nt::AdamwStep s;
  s.rest1 = float(1.0 - double(beta1));
  s.beta2 = beta2;
  s.rest2 = float(1.0 - double(beta2));
  s.decay = float(1.0 - double(learning_rate) * double(weight_decay));
  s.size = float(double(learning_rate) / (1.0 - pow(double(beta1), double(step))));
  s.root = float(sqrt(1.0 - pow(double(beta2), double(step))));
  s.eps = eps;
  return nt::adamw(context, parameters, copy, gradients, m, v, n, s, gradient_scale);
}
