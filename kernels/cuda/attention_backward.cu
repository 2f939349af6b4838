// The backward pass of causal attention: with P = exp(scale · q·kᵀ − lse) and D = Σ dO∘O,
//   dV = Pᵀ·dO,  dS = P ∘ (dO·Vᵀ − D),  dQ = scale · dS·K,  dK = scale · dSᵀ·Q.
// dQ first, by tiles of queries, which also finds D of its rows; then dK and dV by tiles of keys: seven products where one
// pass with atomic sums of dQ has five, but nothing depends on the order in which blocks run, and there is no float32 dQ
// in memory. Both passes turn their results back by RoPE before they round and store them; heads of 100 are turned back
// afterwards.
#include "attention_backward.h"

#include "rope.h"

namespace nt {
namespace {

bool all_rows_aligned(const AttentionBackward &call) {
  const auto aligned = [&](const void *p, int64_t ld) { return rows_aligned(p, ld, call.size.head_dim); };
  return aligned(call.dq, call.lddqkv) && aligned(call.dk, call.lddqkv) && aligned(call.dv, call.lddqkv) &&
         aligned(call.dout, call.ldo) && aligned(call.o, call.ldo) && aligned(call.q, call.ldqkv) &&
         aligned(call.k, call.ldqkv) && aligned(call.v, call.ldqkv) &&
         reinterpret_cast<uintptr_t>(call.rope.cosine) % 8 == 0 && reinterpret_cast<uintptr_t>(call.rope.sine) % 8 == 0;
}

int32_t attention_backward_fast(nt_context *context, const AttentionBackward &call) {
  const int32_t status = attention_backward_q(context, call);
  return status == NT_OK ? attention_backward_kv(context, call) : status;
}

int32_t attention_backward(nt_context *context, const AttentionBackward &call) {
  const AttentionSize &size = call.size;
  const bool is_fast = has_tiles(call.dtype, size.head_dim) && all_rows_aligned(call);
  int32_t status = is_fast ? attention_backward_fast(context, call) : attention_backward_plain(context, call);
  if (call.rope.positions == nullptr || (is_fast && size.head_dim % 16 == 0)) return status;
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
  return attention_backward(
      context, {kDtype<T>, size, dq, dk, dv, lddqkv, delta, dout, o, ldo, q, k, v, ldqkv, lse, rope});
}

}  // namespace
}  // namespace nt

#include "../entry/attention_backward.h"
