// The backward pass of causal attention: with P = exp(scale · q·kᵀ − lse) and D = Σ dO∘O,
//   dV = Pᵀ·dO,  dS = P ∘ (dO·Vᵀ − D),  dQ = scale · dS·K,  dK = scale · dSᵀ·Q.
// dQ first, by tiles of queries, which also finds D of its rows; then dK and dV by tiles of keys: seven products where one
// pass with atomic sums of dQ has five, but nothing depends on the order in which blocks run, and there is no float32 dQ
// in memory. Both passes turn their results back by RoPE before they round and store them.
#include "attention_backward.h"

#include "rope.h"

namespace nt {
namespace {

bool all_rows_aligned(const AttentionBackward &call) {
  return rows_aligned(call.dq, call.lddqkv) && rows_aligned(call.dk, call.lddqkv) &&
         rows_aligned(call.dv, call.lddqkv) && rows_aligned(call.dout, call.ldo) && rows_aligned(call.o, call.ldo) &&
         rows_aligned(call.q, call.ldqkv) && rows_aligned(call.k, call.ldqkv) && rows_aligned(call.v, call.ldqkv) &&
         reinterpret_cast<uintptr_t>(call.rope.cosine) % 8 == 0 && reinterpret_cast<uintptr_t>(call.rope.sine) % 8 == 0;
}

int32_t attention_backward_fast(nt_context *context, const AttentionBackward &call) {
  const int32_t status = attention_backward_q(context, call);
  return status == NT_OK ? attention_backward_kv(context, call) : status;
}

int32_t attention_backward_slow(nt_context *context, const AttentionBackward &call) {
  const AttentionSize &size = call.size;
  int32_t status = attention_backward_plain(context, call);
  if (call.rope.positions == nullptr) return status;
  const auto turn_back = [&](void *gradient, int64_t heads) {
    if (status == NT_OK)
      status = rope_rows(context, call.dtype, gradient, call.lddqkv, call.rope, size.tokens, heads, size.head_dim, -1.0f);
  };
  turn_back(call.dq, size.heads);
  turn_back(call.dk, size.kv_heads);
  return status;
}

template <class T>
int32_t attention_backward(nt_context *context, const AttentionSize &size, T *dq, T *dk, T *dv, int64_t lddqkv,
                           float *delta, const T *dout, const T *o, int64_t ldo, const T *q, const T *k, const T *v,
                           int64_t ldqkv, const float *lse, const Rope &rope) {
  const AttentionBackward call = {kDtype<T>, size, dq, dk, dv, lddqkv, delta, dout, o, ldo, q, k, v, ldqkv, lse, rope};
  return has_tiles(call.dtype, size.head_dim) && all_rows_aligned(call) ? attention_backward_fast(context, call)
                                                                        : attention_backward_slow(context, call);
}

}  // namespace
}  // namespace nt

#include "../entry/attention_backward.h"
