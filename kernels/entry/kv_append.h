#pragma once
#include "attention_checks.h"

NT_API int32_t nt_kv_append(nt_context *context, int32_t dtype, void *k_cache, void *v_cache, const void *k,
                            const void *v, int64_t ldkv, const int32_t *cu_seqlens, const int32_t *slots,
                            const int32_t *starts, int64_t sequences, int64_t capacity, int64_t kv_heads,
                            int64_t head_dim) {
  const char *op = "kv_append";
  NT_CHECK_DTYPE("kv_append", dtype);
  NT_TRY(nt::check_heads(op, kv_heads, kv_heads, head_dim));
  NT_TRY(nt::check_borders(op, cu_seqlens, sequences));
  NT_CHECK(ldkv >= kv_heads * head_dim, "%s: ldkv must be at least kv_heads · head_dim = %lld, got %lld", op,
           (long long)(kv_heads * head_dim), (long long)ldkv);
  if (sequences == 0 || cu_seqlens[sequences] == 0) return NT_OK;
  NT_CHECK(k_cache != nullptr && v_cache != nullptr && k != nullptr && v != nullptr && slots != nullptr &&
               starts != nullptr,
           "%s: the caches, k, v, slots and starts must not be null", op);
  for (int64_t s = 0; s < sequences; s++) {
    const int64_t length = cu_seqlens[s + 1] - cu_seqlens[s];
    NT_CHECK(slots[s] >= 0 && starts[s] >= 0 && starts[s] + length <= capacity,
             "%s: sample %lld must fit its slot of %lld positions, got slot %d, positions %d … %lld", op, (long long)s,
             (long long)capacity, int(slots[s]), int(starts[s]), (long long)(starts[s] + length));
  }
  return nt::kv_append(context, dtype, k_cache, v_cache, k, v, ldkv, cu_seqlens, slots, starts, sequences, capacity,
                       kv_heads, head_dim);
}
