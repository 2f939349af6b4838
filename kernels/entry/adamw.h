#pragma once
#include "adamw_step.h"

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
  nt::AdamwStep s{};
  NT_TRY(nt::adamw_step("adamw", learning_rate, beta1, beta2, eps, weight_decay, step, s));
  if (n == 0) return NT_OK;
  NT_CHECK(parameters != nullptr && gradients != nullptr && m != nullptr && v != nullptr,
           "adamw: parameters, gradients, m and v must not be null");
  return nt::adamw(context, parameters, copy, gradients, m, v, n, s, gradient_scale);
}
