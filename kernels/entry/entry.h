// What the entry points share. Each nt_* function is written once, in a header of this folder: it checks its
// arguments, picks the element type and calls the backend's function of the same name in namespace nt. A backend
// includes each header once, behind the functions that it calls; it needs a `kHostIsDevice` in its context.h.
#pragma once
#include "../check.h"

// Leaves the function with the status of a call that failed.
#define NT_TRY(call)                                      \
  do {                                                    \
    const int32_t nt_try_status_ = (call);                \
    if (nt_try_status_ != NT_OK) return nt_try_status_;   \
  } while (0)

namespace nt {

// What 32-bit indices inside kernels hold.
constexpr int64_t kMostTokens = INT32_MAX;
constexpr int64_t kMostColumns = int64_t(1) << 30;

// Checkpoints have float16 too.
inline bool is_stored_dtype(int64_t dtype) { return dtype == NT_F32 || dtype == NT_BF16 || dtype == NT_F16; }

// [tokens, columns] of an operation that names its columns `name`.
inline int32_t check_rows(const char *op, const char *name, int64_t tokens, int64_t columns) {
  NT_CHECK(tokens >= 0 && columns >= 0, "%s: sizes must be ≥ 0, got T %lld, %s %lld", op, (long long)tokens, name,
           (long long)columns);
  NT_CHECK(tokens <= kMostTokens && columns <= kMostColumns,
           "%s: T must be below 2^31 and %s at most 2^30, got %lld and %lld", op, name, (long long)tokens,
           (long long)columns);
  return NT_OK;
}

// An nt_rows.
inline int32_t check_row_kind(const char *op, int32_t rows) {
  NT_CHECK(rows >= NT_ROWS_TOGETHER && rows <= NT_ROWS_TILED, "%s: unknown kind of rows %d", op, int(rows));
  return NT_OK;
}

// Rows of `columns` elements of a tensor, `distance` elements from one to the next.
inline int32_t check_distance(const char *op, const char *name, int64_t distance, int64_t columns) {
  NT_CHECK(distance >= columns, "%s: rows of %s have %lld elements and do not fit into distance %lld", op, name,
           (long long)columns, (long long)distance);
  return NT_OK;
}

inline int32_t check_count(const char *op, const char *name, int64_t count) {
  NT_CHECK(count >= 0, "%s: %s must be ≥ 0, got %lld", op, name, (long long)count);
  return NT_OK;
}

}  // namespace nt
