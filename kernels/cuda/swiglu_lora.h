// SwiGLU's backward pass together with the gradient of the LoRA A behind it, bf16 on tensor cores: dA[R,I] += gᵀ·h with
// h = silu(gate) · up, which exists in shared memory alone. Bytes an element of h: 10, where writing h for a product of
// its own and reading it there takes 14.
#pragma once
#include "lora_outer.h"
#include "swiglu.h"

namespace nt {
namespace {

constexpr int kSwigluStages = 2;
constexpr int64_t kSwigluPartRows = 128;  // at least; a part's sums are a tenth of what it reads and writes

// gate (h in its place), up, dh [32 rows][128 columns], g [32 rows]: as lora_outer.h has its operands.
__host__ __device__ constexpr int swiglu_stage_bytes(int tiles) {
  return 2 * kOuterWideBytes + outer_stage_bytes(tiles);
}

// A block has 128 columns of h and one part of the tokens, whose elements it computes 32 tokens at a time: each thread
// those of the chunks that it has copied itself, so that its own wait for them is enough; then h is multiplied by g.
template <int tiles>
__global__ __launch_bounds__(kOuterThreads, 3)
    void swiglu_backward_lora_kernel(bf16 *gate_up, int64_t ldgate_up, const bf16 *dh, int64_t lddh,
                                     const OuterProduct p, const OuterSplit split) {
  NT_DYNAMIC_SHARED(memory);
  constexpr int kStage = swiglu_stage_bytes(tiles), kChunks = kOuterWide / 8, kRows = kOuterThreads / kChunks;
  const int64_t n0 = int64_t(blockIdx.x) * kOuterWide, I = p.N;
  const int64_t begin = blockIdx.y * split.rows_a_part;
  const int64_t end = begin + split.rows_a_part < split.T ? begin + split.rows_a_part : split.T;
  const int stages = int((end - begin + kOuterT - 1) / kOuterT);
  const int row = int(threadIdx.x) / kChunks, chunk = int(threadIdx.x) % kChunks;
  static_assert(kRows == 8, "a thread's rows have one swizzle");
  const int own = row * 256 + ((chunk ^ row) << 4);
  const bool inside = n0 + chunk * 8 < I;

  const auto load = [&](int stage) {
    unsigned char *const into = memory + stage % kSwigluStages * kStage;
    const int64_t t0 = begin + int64_t(stage) * kOuterT;
    NT_UNROLL
    for (int i = 0; i < kOuterT; i += kRows) {
      const bool valid = t0 + row + i < end && inside;
      const bf16 *gate = valid ? gate_up + (t0 + row + i) * ldgate_up + n0 + chunk * 8 : gate_up;
      unsigned char *const to = into + own + i * 256;
      copy_async(to, gate, valid);
      copy_async(to + kOuterWideBytes, valid ? gate + I : gate, valid);
      copy_async(to + 2 * kOuterWideBytes, valid ? dh + (t0 + row + i) * lddh + n0 + chunk * 8 : dh, valid);
    }
    outer_load_narrow<tiles>(into + 3 * kOuterWideBytes, p, t0, end, 0);
  };

  load(0);
  copy_async_commit();
  float sums[2][tiles][4] = {};
  for (int stage = 0; stage < stages; stage++) {
    unsigned char *const gates = memory + stage % kSwigluStages * kStage;
    const int64_t t0 = begin + int64_t(stage) * kOuterT;
    copy_async_wait<0>();
    NT_UNROLL
    for (int i = 0; i < kOuterT; i += kRows) {
      bf16 *const at = reinterpret_cast<bf16 *>(gates + own + i * 256);
      Pack<bf16> g = load_pack(at), u = load_pack(at + kOuterWideBytes / 2), d = load_pack(at + kOuterWideBytes);
      swiglu_backward_chunk(g, u, d);
      if (t0 + row + i < end && inside) {
        bf16 *const gate = gate_up + (t0 + row + i) * ldgate_up + n0 + chunk * 8;
        store_pack(gate, g);
        store_pack(gate + I, u);
      }
      uint4 bits;
      memcpy(&bits, &d, 16);
      *reinterpret_cast<uint4 *>(at) = bits;
    }
    __syncthreads();  // h and g of this stage are there, and all are done with the one before
    if (stage + 1 < stages) load(stage + 1);
    copy_async_commit();
    outer_multiply<tiles>(sums, gates, gates + 3 * kOuterWideBytes);
  }
  outer_finish<tiles>(sums, p, split, int(blockIdx.x), int(blockIdx.y), n0, 0);
}

inline bool can_swiglu_lora(const void *gate_up, int64_t ldgate_up, const void *g, int64_t ldg, const void *dh,
                            int64_t lddh, int64_t R, int64_t I) {
  return R <= kOuterNarrow && ldgate_up % 8 == 0 && aligned16(gate_up) && can_lora_outer(dh, lddh, g, ldg, I, R);
}

template <int tiles>
cudaError_t launch_swiglu_lora(nt_context *context, bf16 *gate_up, int64_t ldgate_up, const bf16 *dh, int64_t lddh,
                               const OuterProduct &product, int64_t T) {
  constexpr int kBytes = kSwigluStages * swiglu_stage_bytes(tiles);
  const int64_t wide_tiles = ceil_div(product.N, kOuterWide);
  const OuterSplit split =
      outer_split(context, T, wide_tiles, tiles, concurrent_blocks(context, kBytes), kSwigluPartRows);
  return launch(swiglu_backward_lora_kernel<tiles>, dim3(unsigned(wide_tiles), unsigned(split.parts)),
                dim3(kOuterThreads), size_t(kBytes), context->stream, gate_up, ldgate_up, dh, lddh, product,
                split);
}

inline cudaError_t swiglu_lora(nt_context *context, bf16 *gate_up, int64_t ldgate_up, float *da, const bf16 *g,
                               int64_t ldg, const bf16 *dh, int64_t lddh, int64_t T, int64_t R, int64_t I) {
  const OuterProduct product = {da, 1, I, nullptr, I, g, ldg, I, R};
  const auto run = R <= 16   ? launch_swiglu_lora<2>
                   : R <= 32 ? launch_swiglu_lora<4>
                   : R <= 48 ? launch_swiglu_lora<6>
                             : launch_swiglu_lora<8>;
  return run(context, gate_up, ldgate_up, dh, lddh, product, T);
}

}  // namespace
}  // namespace nt
