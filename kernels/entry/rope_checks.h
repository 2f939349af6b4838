// What the functions with rotary position embedding ask of their arguments.
#pragma once
#include "entry.h"
#include "rope_tables.h"

namespace nt {

// Tables of cosines and sines, and what place in them each token has.
inline int32_t check_rope(const char *op, const void *x, int64_t ldx, const float *cosine, const float *sine,
                          const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim) {
  NT_CHECK(T >= 0 && heads >= 0 && head_dim >= 0, "%s: sizes must be ≥ 0, got T %lld, heads %lld, head_dim %lld", op,
           (long long)T, (long long)heads, (long long)head_dim);
  NT_CHECK(T <= kMostTokens && heads <= kMostColumns && head_dim <= kMostColumns,
           "%s: T must be below 2^31, heads and head_dim at most 2^30, got %lld, %lld, %lld", op, (long long)T,
           (long long)heads, (long long)head_dim);
  NT_CHECK(head_dim % 2 == 0, "%s: head_dim must be even, got %lld", op, (long long)head_dim);
  NT_CHECK(ldx >= heads * head_dim, "%s: ldx must be at least heads · head_dim = %lld, got %lld", op,
           (long long)(heads * head_dim), (long long)ldx);
  NT_CHECK(T == 0 || heads == 0 || head_dim == 0 ||
               (x != nullptr && cosine != nullptr && sine != nullptr && positions != nullptr),
           "%s: x, cosine, sine and positions must not be null", op);
  return NT_OK;
}

// Where the host cannot read positions, a kernel makes NaN of what has a negative one.
inline int32_t check_positions(const char *op, const int32_t *positions, int64_t T) {
  if constexpr (kHostIsDevice)
    for (int64_t t = 0; t < T; t++)
      NT_CHECK(positions[t] >= 0, "%s: positions must be ≥ 0, got %d at token %lld", op, int(positions[t]),
               (long long)t);
  return NT_OK;
}

}  // namespace nt
