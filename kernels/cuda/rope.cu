// Rotary position embedding (arXiv 2104.09864, with Transformers' pairing of halves), in place.
#include "rope.h"

#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 128;

// (a, b) → (a·cos − b·sin, b·cos + a·sin), a chunk of each half a thread. A block takes one token: thread i the chunk
// i mod (chunks of half a head) of heads i / chunks, + blockDim / chunks, …, so that cosines and sines (float32, shared
// by all heads) are read once a thread. Bytes an element: one read, one write (4 in bf16). A position below 0, which no
// host can see in time, makes NaN of the token's heads.
template <class T, bool vector>
__global__ void __launch_bounds__(kThreads, vector ? 8 : 4)
    rope_kernel(T *x, int64_t ldx, const float *cosine, const float *sine, const int32_t *positions, int heads,
                int half, float sign) {
  constexpr int N = kChunk<T>;
  const int64_t t = blockIdx.x, place = int64_t(positions[t]) * half;
  const int chunks = (half + N - 1) / N, lanes = chunks < kThreads ? chunks : kThreads;
  const int groups = kThreads / lanes, group = threadIdx.x / lanes;
  if (group >= groups) return;
  for (int i = (threadIdx.x - group * lanes) * N; i < half; i += lanes * N) {
    const int left = half - i;
    float c[N], s[N];
    if (place >= 0) {
      load_columns<vector>(c, cosine + place + i, left);
      load_columns<vector>(s, sine + place + i, left);
    } else {
      NT_UNROLL
      for (int k = 0; k < N; k++) c[k] = s[k] = NAN;
    }
    T *row = x + t * ldx + i;
    for (int h = group; h < heads; h += groups) {
      T *first = row + int64_t(h) * 2 * half, *second = first + half;
      Pack<T> a = load_chunk<vector>(first, left), b = load_chunk<vector>(second, left);
      NT_UNROLL
      for (int k = 0; k < N; k++) {
        const float p = to_float(a.x[k]), q = to_float(b.x[k]), turn = sign * s[k];
        a.x[k] = from_float<T>(fmaf(p, c[k], -(q * turn)));
        b.x[k] = from_float<T>(fmaf(q, c[k], p * turn));
      }
      store_chunk<vector>(first, a, left);
      store_chunk<vector>(second, b, left);
    }
  }
}

template <class T>
int32_t rope(nt_context *context, T *x, int64_t ldx, const float *cosine, const float *sine, const int32_t *positions,
             int64_t tokens, int64_t heads, int64_t head_dim, float sign) {
  const bool vector = head_dim % 16 == 0 && ldx % 8 == 0 && aligned16(x, cosine, sine);
  auto *kernel = vector ? rope_kernel<T, true> : rope_kernel<T, false>;
  NT_CUDA(launch(kernel, dim3(unsigned(tokens)), dim3(kThreads), 0, context->stream, x, ldx, cosine, sine, positions,
                 int(heads), int(head_dim / 2), sign),
          "rope");
  return NT_OK;
}

}  // namespace

int32_t rope_rows(nt_context *context, int32_t dtype, void *x, int64_t ldx, const Rope &rope, int64_t tokens,
                  int64_t heads, int64_t head_dim, float sign) {
  const auto run = [&](auto *rows) {
    return nt::rope(context, rows, ldx, rope.cosine, rope.sine, rope.positions, tokens, heads, head_dim, sign);
  };
  return dtype == NT_F32 ? run(static_cast<float *>(x)) : run(static_cast<bf16 *>(x));
}

}  // namespace nt

#include "../entry/rope.h"
