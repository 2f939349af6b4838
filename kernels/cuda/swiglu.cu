// SwiGLU (arXiv 2002.05202): h = silu(gate) · up, silu(g) = g · σ(g).
#include "swiglu.h"

#include "context.h"
#include "lora.h"
#include "rows.h"
#include "swiglu_lora.h"

namespace nt {
namespace {

constexpr int kThreads = 256;

// h = g · σ(g) · u, a chunk a thread. Bytes an element of h: 6 in bf16.
template <class T, bool vector>
__global__ void __launch_bounds__(kThreads, 4)
    swiglu_forward_kernel(T *h, int64_t ldh, const T *gate_up, int64_t ldgate_up, uint64_t total, uint32_t chunks,
                          int I) {
  constexpr int N = kChunk<T>;
  const uint64_t index = global_thread();
  if (index >= total) return;
  const ChunkPlace place = chunk_place(index, chunks);
  const int i = int(place.chunk) * N, left = I - i;
  const T *gate = gate_up + place.row * ldgate_up + i;
  const Pack<T> g = load_chunk<vector>(gate, left), u = load_chunk<vector>(gate + I, left);
  Pack<T> out;
  NT_UNROLL
  for (int k = 0; k < N; k++) {
    const float x = to_float(g.x[k]);
    out.x[k] = from_float<T>(x * sigmoid(x) * to_float(u.x[k]));
  }
  store_chunk<vector>(h + place.row * ldh + i, out, left);
}

// dgate and dup in place of g and u; h where it is wanted, for the gradient of the product behind it. A thread reads its
// chunks of g, u and dh before it writes, so h may be dh. Bytes an element of h: 10 in bf16, 12 with h.
template <class T, bool vector>
__global__ void __launch_bounds__(kThreads, 4)
    swiglu_backward_kernel(T *gate_up, int64_t ldgate_up, T *h, const T *dh, int64_t lddh, uint64_t total,
                           uint32_t chunks, int I) {
  constexpr int N = kChunk<T>;
  const uint64_t index = global_thread();
  if (index >= total) return;
  const ChunkPlace place = chunk_place(index, chunks);
  const int i = int(place.chunk) * N, left = I - i;
  T *gate = gate_up + place.row * ldgate_up + i;
  Pack<T> g = load_chunk<vector>(gate, left), u = load_chunk<vector>(gate + I, left);
  Pack<T> d = load_chunk<vector>(dh + place.row * lddh + i, left);
  swiglu_backward_chunk(g, u, d);
  store_chunk<vector>(gate, g, left);
  store_chunk<vector>(gate + I, u, left);
  if (h != nullptr) store_chunk<vector>(h + place.row * lddh + i, d, left);
}

template <class T>
int32_t swiglu_forward(nt_context *context, T *h, int64_t ldh, const T *gate_up, int64_t ldgate_up, int64_t tokens,
                       int64_t I) {
  const bool vector = I % 8 == 0 && ldh % 8 == 0 && ldgate_up % 8 == 0 && aligned16(h, gate_up);
  const int64_t chunks = ceil_div(I, kChunk<T>), total = tokens * chunks;
  auto *kernel = vector ? swiglu_forward_kernel<T, true> : swiglu_forward_kernel<T, false>;
  NT_CUDA(launch(kernel, dim3(unsigned(ceil_div(total, kThreads))), dim3(kThreads), 0, context->stream, h, ldh,
                 gate_up, ldgate_up, uint64_t(total), uint32_t(chunks), int(I)),
          "swiglu_forward");
  return NT_OK;
}

template <class T>
int32_t swiglu_backward(nt_context *context, T *gate_up, int64_t ldgate_up, T *h, const T *dh, int64_t lddh,
                        int64_t tokens, int64_t I) {
  const bool vector = I % 8 == 0 && ldgate_up % 8 == 0 && lddh % 8 == 0 && aligned16(gate_up, h, dh);
  const int64_t chunks = ceil_div(I, kChunk<T>), total = tokens * chunks;
  auto *kernel = vector ? swiglu_backward_kernel<T, true> : swiglu_backward_kernel<T, false>;
  NT_CUDA(launch(kernel, dim3(unsigned(ceil_div(total, kThreads))), dim3(kThreads), 0, context->stream, gate_up,
                 ldgate_up, h, dh, lddh, uint64_t(total), uint32_t(chunks), int(I)),
          "swiglu_backward");
  return NT_OK;
}

template <class T>
int32_t swiglu_backward_lora(nt_context *context, T *gate_up, int64_t ldgate_up, float *da, const void *g, int64_t ldg,
                             T *dh, int64_t lddh, int64_t tokens, int64_t R, int64_t I) {
  if constexpr (sizeof(T) == 2) {
    if (can_swiglu_lora(gate_up, ldgate_up, g, ldg, dh, lddh, R, I)) {
      NT_CUDA(swiglu_lora(context, gate_up, ldgate_up, da, static_cast<const bf16 *>(g), ldg, dh, lddh, tokens, R, I),
              "swiglu_backward_lora");
      return NT_OK;
    }
  }
  const int32_t status = swiglu_backward(context, gate_up, ldgate_up, dh, dh, lddh, tokens, I);
  if (status != NT_OK) return status;
  return add_lora_a(context, sizeof(T) == 2 ? NT_BF16 : NT_F32, da, g, ldg, dh, lddh, tokens, R, I);
}

}  // namespace
}  // namespace nt

#include "../entry/swiglu.h"
