#pragma once
#include "entry.h"

NT_API int32_t nt_count_non_finite(nt_context *context, uint32_t *count, const void *source, int32_t source_dtype,
                                   int64_t n) {
  NT_CHECK(nt::is_stored_dtype(source_dtype), "count_non_finite: unknown source dtype %d", int(source_dtype));
  NT_TRY(nt::check_count("count_non_finite", "n", n));
  if (n == 0) return NT_OK;
  NT_CHECK(count != nullptr && source != nullptr, "count_non_finite: count and source must not be null");
  return nt::count_non_finite(context, count, source, source_dtype, n);
}
