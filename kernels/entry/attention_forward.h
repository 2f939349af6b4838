#pragma once
#include "attention_checks.h"
#include "dtype.h"

NT_API int32_t nt_attention_forward(nt_context *context, int32_t dtype, void *o, int64_t ldo, float *lse,
                                    const void *q, const void *k, const void *v, int64_t ldqkv,
                                    const int32_t *cu_seqlens, int64_t sequences, int64_t heads, int64_t kv_heads,
                                    int64_t head_dim, int64_t window, float scale) {
  const char *op = "attention_forward";
  NT_CHECK_DTYPE("attention_forward", dtype);
  nt::AttentionSize size;
  NT_TRY(nt::check_attention(op, &size, cu_seqlens, sequences, heads, kv_heads, head_dim, window, scale));
  const int64_t columns = heads * head_dim;
  NT_CHECK(ldqkv >= columns && ldo >= columns, "%s: ldqkv and ldo must be at least heads · head_dim = %lld, got %lld and %lld",
           op, (long long)columns, (long long)ldqkv, (long long)ldo);
  if (size.tokens == 0) return NT_OK;
  NT_CHECK(o != nullptr && q != nullptr && k != nullptr && v != nullptr, "%s: o, q, k and v must not be null", op);
  return nt::with_dtype(dtype, [&](auto element) {
    using E = decltype(element);
    return nt::attention_forward(context, size, nt::as<E>(o), ldo, lse, nt::as<E>(q), nt::as<E>(k), nt::as<E>(v),
                                 ldqkv);
  });
}
