// NF4 in kernels: the tables, a block's absmax, and eight values from a word of codes.
#pragma once
#include "gpu.h"

#include "../neftune.h"
#include "../nf4.h"

namespace nt {

constexpr int64_t kNf4Block = NT_NF4_BLOCK, kNf4Nested = NT_NF4_NESTED_BLOCK;
constexpr int kCodesAWord = 8;  // a 4-byte load: 32 lanes read 128 bytes and write whole lines

static __device__ const float kNf4Codebook[16] = {NT_NF4_CODEBOOK};
static __device__ const float kNf4Map[256] = {NT_DYNAMIC_MAP};

// Shared memory: 16 words in 16 banks, so that any codes are looked up at once. Followed by a barrier.
__device__ __forceinline__ void load_codebook(float *codebook) {
  if (threadIdx.x < 16) codebook[threadIdx.x] = kNf4Codebook[threadIdx.x];
  __syncthreads();
}

// The blocks' absmax: float32, or with double quantization codes of the dynamic map.
struct Nf4Absmax {
  const float *plain;  // null: double
  const uint8_t *codes;
  const float *second;
  const float *offset;
};
inline Nf4Absmax absmax_of(const nt_nf4 &nf4, int64_t n) {
  if (nf4.absmax2 == nullptr) return {static_cast<const float *>(nf4.absmax), nullptr, nullptr, nullptr};
  const int64_t blocks = (n + kNf4Block - 1) / kNf4Block;
  return {nullptr, static_cast<const uint8_t *>(nf4.absmax), nf4.absmax2,
          nf4.absmax2 + (blocks + kNf4Nested - 1) / kNf4Nested};
}
// Eight lanes ask for one block: the map is read through L1, at four places a warp.
__device__ __forceinline__ float block_absmax(const Nf4Absmax &absmax, int64_t block) {
  if (absmax.plain != nullptr) return absmax.plain[block];
  return nt_nf4_absmax(kNf4Map[absmax.codes[block]], absmax.second[block / kNf4Nested], *absmax.offset);
}

// x rounded to what was quantized.
template <int dtype>
__device__ __forceinline__ float stored(float x) {
  if constexpr (dtype == NT_F16) x = from_f16(to_f16(x));
  if constexpr (dtype == NT_BF16) x = to_float(from_float<bf16>(x));
  return x;
}

// Values i … of a word of codes, in memory's order: the even ones lie in the high halves of its bytes.
template <int dtype>
__device__ __forceinline__ void word_values(float (&values)[kCodesAWord], const float *codebook, uint32_t word,
                                            float absmax) {
  NT_UNROLL
  for (int i = 0; i < kCodesAWord; i++) {
    const int shift = 4 * (i ^ 1) - 2;  // leaves the code times four, the entry's distance in bytes
    const uint32_t at = (shift < 0 ? word << 2 : word >> (shift < 0 ? 0 : shift)) & 60u;
    const float entry = *reinterpret_cast<const float *>(reinterpret_cast<const char *>(codebook) + at);
    values[i] = stored<dtype>(entry * absmax);
  }
}

}  // namespace nt
