// What the functions with rotary position embedding ask of their arguments, on every backend.
#pragma once
#include "check.h"

namespace nt {

inline int32_t check_rope(const char *op, const void *x, int64_t ldx, const float *cosine, const float *sine,
                          const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim) {
  NT_CHECK(T >= 0 && heads >= 0 && head_dim >= 0, "%s: sizes must be ≥ 0, got T %lld, heads %lld, head_dim %lld", op,
           (long long)T, (long long)heads, (long long)head_dim);
  NT_CHECK(head_dim % 2 == 0, "%s: head_dim must be even, got %lld", op, (long long)head_dim);
  NT_CHECK(ldx >= heads * head_dim, "%s: ldx must be at least heads · head_dim = %lld, got %lld", op,
           (long long)(heads * head_dim), (long long)ldx);
  NT_CHECK(T == 0 || heads == 0 || head_dim == 0 ||
               (x != nullptr && cosine != nullptr && sine != nullptr && positions != nullptr),
           "%s: x, cosine, sine and positions must not be null", op);
  return NT_OK;
}

// Positions, where the host can read them.
inline int32_t check_positions(const char *op, const int32_t *positions, int64_t T) {
  for (int64_t t = 0; t < T; t++)
    NT_CHECK(positions[t] >= 0, "%s: positions must be ≥ 0, got %d at token %lld", op, int(positions[t]), (long long)t);
  return NT_OK;
}

constexpr int64_t kMostNormedHeadDim = 256;

// For both directions of rmsnorm_rope; `x` with distance ldx is what is worked on in place, `other` the input that is
// kept (forward: may be null) or read (backward).
inline int32_t check_rmsnorm_rope(const char *op, const void *x, int64_t ldx, const void *other, int64_t ldother,
                                  const float *weight, const float *cosine, const float *sine,
                                  const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim) {
  if (int32_t status = check_rope(op, x, ldx, cosine, sine, positions, T, heads, head_dim)) return status;
  NT_CHECK(head_dim <= kMostNormedHeadDim, "%s: head_dim must be at most 256, got %lld", op, (long long)head_dim);
  NT_CHECK(T == 0 || heads == 0 || head_dim == 0 || weight != nullptr, "%s: weight must not be null", op);
  NT_CHECK(other == nullptr || ldother >= heads * head_dim,
           "%s: the input's row distance must be at least heads · head_dim = %lld, got %lld", op,
           (long long)(heads * head_dim), (long long)ldother);
  return NT_OK;
}

}  // namespace nt
