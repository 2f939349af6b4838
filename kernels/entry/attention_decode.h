#pragma once
#include "attention_checks.h"
#include "dtype.h"

NT_API int32_t nt_attention_decode(nt_context *context, int32_t dtype, void *o, int64_t ldo, const void *q,
                                   int64_t ldq, const void *k_cache, const void *v_cache, const int32_t *slots,
                                   const int32_t *lengths, int64_t sequences, int64_t capacity, int64_t heads,
                                   int64_t kv_heads, int64_t head_dim, int64_t window, float scale) {
  const char *op = "attention_decode";
  NT_CHECK_DTYPE("attention_decode", dtype);
  NT_TRY(nt::check_heads(op, heads, kv_heads, head_dim));
  NT_TRY(nt::check_window(op, window));
  NT_TRY(nt::check_count(op, "sequences", sequences));
  NT_CHECK(scale > 0 && scale < 1e30f, "%s: scale must be finite and > 0, got %g", op, double(scale));
  NT_CHECK(ldo >= heads * head_dim && ldq >= heads * head_dim,
           "%s: ldo and ldq must be at least heads · head_dim = %lld, got %lld and %lld", op,
           (long long)(heads * head_dim), (long long)ldo, (long long)ldq);
  if (sequences == 0) return NT_OK;
  NT_CHECK(o != nullptr && q != nullptr && k_cache != nullptr && v_cache != nullptr && slots != nullptr &&
               lengths != nullptr,
           "%s: o, q, the caches, slots and lengths must not be null", op);
  for (int64_t s = 0; s < sequences; s++)
    NT_CHECK(slots[s] >= 0 && lengths[s] >= 0 && lengths[s] <= capacity,
             "%s: lengths must be between 0 and the capacity %lld, slots ≥ 0, got length %d of slot %d", op,
             (long long)capacity, int(lengths[s]), int(slots[s]));
  const nt::CachedSize size = {slots, lengths, sequences, capacity, heads, kv_heads, head_dim, window, scale};
  return nt::with_dtype(dtype, [&](auto element) {
    using E = decltype(element);
    return nt::attention_decode(context, size, nt::as<E>(o), ldo, nt::as<E>(q), ldq, nt::as<E>(k_cache),
                                nt::as<E>(v_cache));
  });
}
