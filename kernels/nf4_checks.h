// What every backend asks of NF4's arguments. Callers return NT_OK for no values before they look at pointers.
#pragma once
#include "check.h"

namespace nt {

inline bool is_stored_dtype(int64_t dtype) { return dtype == NT_F32 || dtype == NT_BF16 || dtype == NT_F16; }

inline int32_t check_nf4(const char *op, const nt_nf4 *nf4, int64_t n) {
  NT_CHECK(nf4 != nullptr, "%s: no NF4 tensor", op);
  NT_CHECK(is_stored_dtype(nf4->dtype), "%s: unknown dtype %lld of the NF4 tensor", op, (long long)nf4->dtype);
  NT_CHECK(n == 0 || (nf4->codes != nullptr && nf4->absmax != nullptr), "%s: codes or absmax is null", op);
  return NT_OK;
}

inline int32_t check_nf4_weight(int32_t dtype, int64_t out, int64_t in, const nt_nf4 *nf4, const void *scratch) {
  NT_CHECK_DTYPE("weight_create_nf4", dtype);
  NT_CHECK(out >= 0 && in >= 0, "weight_create_nf4: sizes must not be negative, got [%lld, %lld]", (long long)out,
           (long long)in);
  NT_CHECK(scratch != nullptr, "weight_create_nf4: no scratch");
  return check_nf4("weight_create_nf4", nf4, out * in);
}

inline int32_t check_nf4_quantize(const void *codes, const void *absmax, const void *source, int32_t source_dtype,
                                  int64_t n) {
  NT_CHECK(is_stored_dtype(source_dtype), "nf4_quantize: unknown source dtype %d", int(source_dtype));
  NT_CHECK(n >= 0, "nf4_quantize: n must be ≥ 0, got %lld", (long long)n);
  NT_CHECK(n == 0 || (codes != nullptr && absmax != nullptr && source != nullptr),
           "nf4_quantize: codes, absmax or the source is null");
  return NT_OK;
}

inline int32_t check_nf4_quantize_absmax(const void *codes, const void *absmax2, const void *absmax, int64_t blocks) {
  NT_CHECK(blocks >= 0, "nf4_quantize_absmax: blocks must be ≥ 0, got %lld", (long long)blocks);
  NT_CHECK(blocks == 0 || (codes != nullptr && absmax2 != nullptr && absmax != nullptr),
           "nf4_quantize_absmax: codes, absmax2 or absmax is null");
  return NT_OK;
}

inline int32_t check_nf4_dequantize(const void *destination, int32_t destination_dtype, const nt_nf4 *nf4, int64_t n) {
  NT_CHECK(is_stored_dtype(destination_dtype), "nf4_dequantize: unknown destination dtype %d",
           int(destination_dtype));
  NT_CHECK(n >= 0, "nf4_dequantize: n must be ≥ 0, got %lld", (long long)n);
  NT_CHECK(n == 0 || destination != nullptr, "nf4_dequantize: the destination is null");
  return check_nf4("nf4_dequantize", nf4, n);
}

}  // namespace nt
