#pragma once
#include "attention_checks.h"
#include "dtype.h"
#include "rope_checks.h"

NT_API int32_t nt_attention_backward(nt_context *context, int32_t dtype, void *dq, void *dk, void *dv, int64_t lddqkv,
                                     float *delta, const void *dout, const void *o, int64_t ldo, const void *q,
                                     const void *k, const void *v, int64_t ldqkv, const float *lse,
                                     const int32_t *cu_seqlens, int64_t sequences, int64_t heads, int64_t kv_heads,
                                     int64_t head_dim, int64_t window, float scale, const float *cosine,
                                     const float *sine, const int32_t *positions) {
  const char *op = "attention_backward";
  NT_CHECK_DTYPE("attention_backward", dtype);
  nt::AttentionSize size;
  NT_TRY(nt::check_attention(op, &size, cu_seqlens, sequences, heads, kv_heads, head_dim, window, scale));
  const int64_t columns = heads * head_dim;
  NT_CHECK(ldqkv >= columns && lddqkv >= columns && ldo >= columns,
           "%s: ldqkv, lddqkv and ldo must be at least heads · head_dim = %lld, got %lld, %lld and %lld", op,
           (long long)columns, (long long)ldqkv, (long long)lddqkv, (long long)ldo);
  if (size.tokens == 0) return NT_OK;
  NT_CHECK(dq != nullptr && dk != nullptr && dv != nullptr && delta != nullptr && dout != nullptr && o != nullptr &&
               q != nullptr && k != nullptr && v != nullptr && lse != nullptr,
           "%s: no pointer may be null", op);
  const nt::Rope rope = {cosine, sine, positions};
  if (positions != nullptr) {
    NT_TRY(nt::check_rope(op, dq, lddqkv, cosine, sine, positions, size.tokens, heads, head_dim));
    NT_TRY(nt::check_positions(op, positions, size.tokens));
  }
  return nt::with_dtype(dtype, [&](auto element) {
    using E = decltype(element);
    return nt::attention_backward(context, size, nt::as<E>(dq), nt::as<E>(dk), nt::as<E>(dv), lddqkv, delta,
                                  nt::as<E>(dout), nt::as<E>(o), ldo, nt::as<E>(q), nt::as<E>(k), nt::as<E>(v), ldqkv,
                                  lse, rope);
  });
}
