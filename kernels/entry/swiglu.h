#pragma once
#include "dtype.h"

namespace nt {

// Of h or dh, [T, I], with gate_up [T, 2I].
inline int32_t check_swiglu(const char *op, const char *name, int64_t distance, int64_t ldgate_up, int64_t T,
                            int64_t I) {
  NT_TRY(check_rows(op, "I", T, I));
  NT_TRY(check_distance(op, name, distance, I));
  return check_distance(op, "gate_up", ldgate_up, 2 * I);
}

}  // namespace nt

NT_API int32_t nt_swiglu_forward(nt_context *context, int32_t dtype, void *h, int64_t ldh, const void *gate_up,
                                 int64_t ldgate_up, int64_t T, int64_t I) {
  NT_CHECK_DTYPE("swiglu_forward", dtype);
  NT_TRY(nt::check_swiglu("swiglu_forward", "h", ldh, ldgate_up, T, I));
  if (T == 0 || I == 0) return NT_OK;
  NT_CHECK(h != nullptr && gate_up != nullptr, "swiglu_forward: h and gate_up must not be null");
  return nt::with_dtype(dtype, [&](auto element) {
    using E = decltype(element);
    return nt::swiglu_forward(context, nt::as<E>(h), ldh, nt::as<E>(gate_up), ldgate_up, T, I);
  });
}

NT_API int32_t nt_swiglu_backward(nt_context *context, int32_t dtype, void *gate_up, int64_t ldgate_up, void *h,
                                  const void *dh, int64_t lddh, int64_t T, int64_t I) {
  NT_CHECK_DTYPE("swiglu_backward", dtype);
  NT_TRY(nt::check_swiglu("swiglu_backward", "dh", lddh, ldgate_up, T, I));
  if (T == 0 || I == 0) return NT_OK;
  NT_CHECK(gate_up != nullptr && dh != nullptr, "swiglu_backward: gate_up and dh must not be null");
  return nt::with_dtype(dtype, [&](auto element) {
    using E = decltype(element);
    return nt::swiglu_backward(context, nt::as<E>(gate_up), ldgate_up, nt::as<E>(h), nt::as<E>(dh), lddh, T, I);
  });
}

NT_API int32_t nt_swiglu_backward_lora(nt_context *context, int32_t dtype, void *gate_up, int64_t ldgate_up, float *da,
                                       const void *g, int64_t ldg, void *dh, int64_t lddh, int64_t T, int64_t R,
                                       int64_t I) {
  const char *op = "swiglu_backward_lora";
  NT_CHECK_DTYPE("swiglu_backward_lora", dtype);
  NT_TRY(nt::check_swiglu(op, "dh", lddh, ldgate_up, T, I));
  NT_TRY(nt::check_rows(op, "R", T, R));
  NT_TRY(nt::check_distance(op, "g", ldg, R));
  if (T == 0 || I == 0) return NT_OK;
  NT_CHECK(gate_up != nullptr && dh != nullptr && (R == 0 || (da != nullptr && g != nullptr)),
           "%s: gate_up, dA, g and dh must not be null", op);
  return nt::with_dtype(dtype, [&](auto element) {
    using E = decltype(element);
    if (R == 0)
      return nt::swiglu_backward(context, nt::as<E>(gate_up), ldgate_up, static_cast<E *>(nullptr), nt::as<E>(dh), lddh,
                                 T, I);
    return nt::swiglu_backward_lora(context, nt::as<E>(gate_up), ldgate_up, da, g, ldg, nt::as<E>(dh), lddh, T, R, I);
  });
}
