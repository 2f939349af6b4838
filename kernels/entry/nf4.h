#pragma once
#include "nf4_checks.h"

NT_API int32_t nt_nf4_quantize(nt_context *context, uint8_t *codes, float *absmax, const void *source,
                               int32_t source_dtype, int64_t n, uint32_t *non_finite) {
  NT_CHECK(nt::is_stored_dtype(source_dtype), "nf4_quantize: unknown source dtype %d", int(source_dtype));
  NT_TRY(nt::check_count("nf4_quantize", "n", n));
  if (n == 0) return NT_OK;
  NT_CHECK(codes != nullptr && absmax != nullptr && source != nullptr,
           "nf4_quantize: codes, absmax and source must not be null");
  return nt::nf4_quantize(context, codes, absmax, source, source_dtype, n, non_finite);
}

NT_API int32_t nt_nf4_quantize_absmax(nt_context *context, uint8_t *codes, float *absmax2, const float *absmax,
                                      int64_t blocks) {
  NT_TRY(nt::check_count("nf4_quantize_absmax", "blocks", blocks));
  if (blocks == 0) return NT_OK;
  NT_CHECK(codes != nullptr && absmax2 != nullptr && absmax != nullptr,
           "nf4_quantize_absmax: codes, absmax2 and absmax must not be null");
  return nt::nf4_quantize_absmax(context, codes, absmax2, absmax, blocks);
}

NT_API int32_t nt_nf4_dequantize(nt_context *context, void *destination, int32_t destination_dtype, const nt_nf4 *nf4,
                                 int64_t n, int64_t columns, int64_t ld) {
  NT_CHECK(nt::is_stored_dtype(destination_dtype), "nf4_dequantize: unknown destination dtype %d",
           int(destination_dtype));
  NT_TRY(nt::check_count("nf4_dequantize", "n", n));
  NT_TRY(nt::check_nf4("nf4_dequantize", nf4, n));
  if (n == 0) return NT_OK;
  NT_CHECK(columns > 0, "nf4_dequantize: columns must be > 0, got %lld", (long long)columns);
  NT_TRY(nt::check_distance("nf4_dequantize", "the destination", ld, columns));
  NT_CHECK(destination != nullptr, "nf4_dequantize: destination must not be null");
  return nt::nf4_dequantize(context, destination, destination_dtype, *nf4, n, columns, ld);
}
