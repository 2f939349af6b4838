// The backward pass of causal attention: with P = exp(scale · q·kᵀ − lse) and D = Σ dO∘O,
//   dV = Pᵀ·dO,  dS = P ∘ (dO·Vᵀ − D),  dQ = scale · dS·K,  dK = scale · dSᵀ·Q.
// D first, then dK and dV by tiles of keys, then dQ by tiles of queries: seven products where one pass with atomic sums of
// dQ has five, but nothing depends on the order in which blocks run, and there is no float32 dQ in memory.
#include "attention_backward.h"

namespace nt {
namespace {

constexpr int kDeltaThreads = 256, kDeltaHeads = 8;

// delta[h, t] = Σ do[t, h]∘o[t, h]. 8 or 16 lanes a row of head_dim, 16 bytes of each a lane; a block has one token for
// each such group and kDeltaHeads heads. Bytes an element: 4, and 4 / head_dim written. `o` is not wanted again, dO is.
template <int head_dim>
__global__ void __launch_bounds__(kDeltaThreads, 6)
    attention_backward_delta_kernel(float *delta, const bf16 *dout, const bf16 *o, int64_t ldo, int64_t tokens,
                                    int heads) {
  constexpr int lanes = head_dim > 64 ? 16 : 8, chunks = head_dim / 8;
  const int64_t token = int64_t(blockIdx.x) * (kDeltaThreads / lanes) + threadIdx.x / lanes;
  const int chunk = threadIdx.x % lanes, first = int(blockIdx.y) * kDeltaHeads;
  NT_UNROLL
  for (int i = 0; i < kDeltaHeads; i++) {
    const int head = first + i;
    const bool reads = token < tokens && head < heads && chunk < chunks;
    float sum = 0.0f;
    if (reads) {
      const int64_t at = token * ldo + head * head_dim + 8 * chunk;
      const Pack<bf16> x = load_pack(dout + at), y = load_pack_once(o + at);
      NT_UNROLL
      for (int j = 0; j < 8; j++) sum = fmaf(to_float(x.x[j]), to_float(y.x[j]), sum);
    }
    NT_UNROLL
    for (int step = lanes / 2; step > 0; step >>= 1) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (reads && chunk == 0) delta[head * tokens + token] = sum;
  }
}

template <int head_dim>
int32_t attention_backward_delta(nt_context *context, const AttentionBackward &call) {
  constexpr int tokens = kDeltaThreads / (head_dim > 64 ? 16 : 8);
  const AttentionSize &size = call.size;
  const dim3 grid(unsigned(ceil_div(size.tokens, tokens)), unsigned(ceil_div(size.heads, kDeltaHeads)));
  NT_CUDA(nt::launch(attention_backward_delta_kernel<head_dim>, grid, kDeltaThreads, 0, context->stream, call.delta,
                     static_cast<const bf16 *>(call.dout), static_cast<const bf16 *>(call.o), call.ldo, size.tokens,
                     int(size.heads)),
          "attention_backward_delta");
  return NT_OK;
}

int32_t attention_backward_fast(nt_context *context, const AttentionBackward &call) {
  const int64_t head_dim = call.size.head_dim;
  int32_t status = head_dim == 64   ? attention_backward_delta<64>(context, call)
                   : head_dim == 80 ? attention_backward_delta<80>(context, call)
                   : head_dim == 96 ? attention_backward_delta<96>(context, call)
                                    : attention_backward_delta<128>(context, call);
  if (status == NT_OK) status = attention_backward_kv(context, call);
  return status == NT_OK ? attention_backward_q(context, call) : status;
}

bool all_rows_aligned(const AttentionBackward &call) {
  return rows_aligned(call.dq, call.lddqkv) && rows_aligned(call.dk, call.lddqkv) &&
         rows_aligned(call.dv, call.lddqkv) && rows_aligned(call.dout, call.ldo) && rows_aligned(call.o, call.ldo) &&
         rows_aligned(call.q, call.ldqkv) && rows_aligned(call.k, call.ldqkv) && rows_aligned(call.v, call.ldqkv);
}

template <class T>
int32_t attention_backward(nt_context *context, const AttentionSize &size, T *dq, T *dk, T *dv, int64_t lddqkv,
                           float *delta, const T *dout, const T *o, int64_t ldo, const T *q, const T *k, const T *v,
                           int64_t ldqkv, const float *lse) {
  const AttentionBackward call = {kDtype<T>, size, dq, dk, dv, lddqkv, delta, dout, o, ldo, q, k, v, ldqkv, lse};
  return has_tiles(call.dtype, size.head_dim) && all_rows_aligned(call) ? attention_backward_fast(context, call)
                                                                        : attention_backward_plain(context, call);
}

}  // namespace
}  // namespace nt

#include "../entry/attention_backward.h"
