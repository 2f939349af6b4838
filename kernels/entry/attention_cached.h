#pragma once
#include "attention_checks.h"
#include "dtype.h"

NT_API int32_t nt_attention_cached(nt_context *context, int32_t dtype, void *o, int64_t ldo, const void *q,
                                   int64_t ldq, const void *k_cache, const void *v_cache, const int32_t *cu_seqlens,
                                   const int32_t *slots, const int32_t *lengths, int64_t sequences, int64_t capacity,
                                   int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window, float scale) {
  const char *op = "attention_cached";
  NT_CHECK_DTYPE("attention_cached", dtype);
  nt::AttentionSize size;
  NT_TRY(nt::check_attention(op, &size, cu_seqlens, sequences, heads, kv_heads, head_dim, window, scale));
  NT_CHECK(ldo >= heads * head_dim && ldq >= heads * head_dim,
           "%s: ldo and ldq must be at least heads · head_dim = %lld, got %lld and %lld", op,
           (long long)(heads * head_dim), (long long)ldo, (long long)ldq);
  if (size.tokens == 0) return NT_OK;
  NT_CHECK(o != nullptr && q != nullptr && k_cache != nullptr && v_cache != nullptr && slots != nullptr &&
               lengths != nullptr,
           "%s: o, q, the caches, slots and lengths must not be null", op);
  NT_TRY(nt::check_cache(op, &size, slots, lengths, capacity, window));
  return nt::with_dtype(dtype, [&](auto element) {
    using E = decltype(element);
    return nt::attention_cached(context, size, nt::as<E>(o), ldo, nt::as<E>(q), ldq, nt::as<E>(k_cache),
                                nt::as<E>(v_cache));
  });
}
