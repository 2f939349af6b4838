#pragma once
#include "entry.h"

NT_API int32_t nt_gather_rows(nt_context *context, int32_t dtype, void *y, const void *x, const int32_t *rows,
                              int64_t n, int64_t columns) {
  NT_CHECK_DTYPE("gather_rows", dtype);
  NT_CHECK(n >= 0 && columns >= 0, "gather_rows: sizes must be ≥ 0, got n %lld, columns %lld", (long long)n,
           (long long)columns);
  NT_CHECK(columns <= nt::kMostColumns, "gather_rows: at most 2^30 columns, got %lld", (long long)columns);
  if (n == 0 || columns == 0) return NT_OK;
  NT_CHECK(y != nullptr && x != nullptr && rows != nullptr, "gather_rows: y, x and rows must not be null");
  for (int64_t i = 0; i < n; i++)
    NT_CHECK(rows[i] >= 0, "gather_rows: rows must be ≥ 0, got %d at %lld", int(rows[i]), (long long)i);
  return nt::gather_rows(context, dtype, y, x, rows, n, columns);
}
