#pragma once
#include "adamw_step.h"

NT_API int32_t nt_adamw_8bit(nt_context *context, float *parameters, void *copy, const float *gradients, uint8_t *m,
                             uint8_t *v, float *m_absmax, float *v_absmax, int64_t n, float learning_rate, float beta1,
                             float beta2, float eps, float weight_decay, int64_t step, const float *gradient_scale) {
  NT_TRY(nt::check_count("adamw_8bit", "n", n));
  nt::AdamwStep s{};
  NT_TRY(nt::adamw_step("adamw_8bit", learning_rate, beta1, beta2, eps, weight_decay, step, s));
  if (n == 0) return NT_OK;
  NT_CHECK(parameters != nullptr && gradients != nullptr && m != nullptr && v != nullptr && m_absmax != nullptr &&
               v_absmax != nullptr,
           "adamw_8bit: parameters, gradients, m, v, m_absmax and v_absmax must not be null");
  const nt::State8bit state{m, v, m_absmax, v_absmax};
  return nt::adamw_8bit(context, parameters, copy, gradients, state, n, s, gradient_scale);
}
