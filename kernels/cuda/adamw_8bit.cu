// AdamW with its moments in 8 bits.
#include "../dynamic_map.h"
#include "adamw_update.h"
#include "context.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kChunks = NT_STATE_BLOCK / (32 * 4);  // of four values for a lane

static __device__ const float kSigned[256] = {NT_DYNAMIC_MAP};
static __device__ const float kUnsigned[256] = {NT_DYNAMIC_MAP_UNSIGNED};

// The bits of |x| order as |x| does, with NaN above all.
__device__ __forceinline__ uint32_t magnitude(float x) { return __float_as_uint(x) & 0x7FFFFFFFu; }
__device__ __forceinline__ float warp_absmax(uint32_t bits) {
  NT_UNROLL
  for (int step = 16; step > 0; step >>= 1) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, bits, step);
    bits = other > bits ? other : bits;
  }
  return __uint_as_float(bits);
}

// Four codes, those beyond the end 0.
template <bool vector>
__device__ __forceinline__ uint32_t load_codes(const uint8_t *codes, int left) {
  if (vector && left == 4) return *reinterpret_cast<const uint32_t *>(codes);
  uint32_t word = 0;
  NT_UNROLL
  for (int k = 0; k < 4; k++)
    if (k < left) word |= uint32_t(codes[k]) << 8 * k;
  return word;
}
template <bool vector>
__device__ __forceinline__ void store_codes(uint8_t *codes, uint32_t word, int left) {
  if (vector && left == 4) {
    *reinterpret_cast<uint32_t *>(codes) = word;
    return;
  }
  NT_UNROLL
  for (int k = 0; k < 4; k++)
    if (k < left) codes[k] = uint8_t(word >> 8 * k);
}

// A warp has a block of 256 values, a lane two chunks of four; absmax by shuffles, the maps in shared memory. Bytes a
// parameter: 10 read, 6 written, 2 more with the bf16 copy.
template <bool vector>
__global__ void __launch_bounds__(kThreads, 4)
    adamw_8bit_kernel(float *p, bf16 *copy, const float *g, State8bit state, int64_t n, AdamwStep s,
                      const float *scale) {
  static_assert(kThreads == 256, "one thread an entry of the maps");
  NT_SHARED(float, signed_map, [256]);
  NT_SHARED(float, unsigned_map, [256]);
  signed_map[threadIdx.x] = kSigned[threadIdx.x];
  unsigned_map[threadIdx.x] = kUnsigned[threadIdx.x];
  __syncthreads();
  const int lane = int(threadIdx.x) & 31;
  const int64_t block = int64_t(blockIdx.x) * kWarps + (threadIdx.x >> 5);
  const int64_t begin = block * NT_STATE_BLOCK;
  if (begin >= n) return;  // the whole warp
  const float factor = scale == nullptr ? 1.0f : *scale;
  const float m_absmax = state.m_absmax[block], v_absmax = state.v_absmax[block];
  float first[kChunks][4], second[kChunks][4];
  uint32_t m_top = 0, v_top = 0;
  NT_UNROLL
  for (int c = 0; c < kChunks; c++) {
    const int64_t i = begin + c * 128 + lane * 4;
    const int left = n - i >= 4 ? 4 : (n > i ? int(n - i) : 0);
    const bool whole = vector && left == 4;
    Pack<float> parameter, gradient;
    if (whole) {
      parameter = load_pack_once(p + i);
      gradient = load_pack_once(g + i);
    } else {
      parameter = load_chunk<false>(p + i, left);
      gradient = load_chunk<false>(g + i, left);
    }
    const uint32_t m_codes = load_codes<vector>(state.m + i, left), v_codes = load_codes<vector>(state.v + i, left);
    NT_UNROLL
    for (int k = 0; k < 4; k++) {
      float m = k < left ? signed_map[m_codes >> 8 * k & 255u] * m_absmax : 0.0f;
      float v = k < left ? unsigned_map[v_codes >> 8 * k & 255u] * v_absmax : 0.0f;
      adamw_update(parameter.x[k], gradient.x[k] * factor, m, v, s);
      first[c][k] = m;
      second[c][k] = v;
      if (k < left) {
        m_top = max(m_top, magnitude(m));
        v_top = max(v_top, magnitude(v));
      }
    }
    if (whole)
      store_pack_once(p + i, parameter);
    else
      store_chunk<false>(p + i, parameter, left);
    if (copy == nullptr) continue;
    if (whole) {
      *reinterpret_cast<uint2 *>(copy + i) =
          make_uint2(pack_bf16(parameter.x[0], parameter.x[1]), pack_bf16(parameter.x[2], parameter.x[3]));
    } else {
      NT_UNROLL
      for (int k = 0; k < 4; k++)
        if (k < left) copy[i + k] = from_float<bf16>(parameter.x[k]);
    }
  }
  const float m_new = warp_absmax(m_top), v_new = warp_absmax(v_top);
  __syncwarp();  // all lanes have read the old ones
  if (lane == 0) {
    state.m_absmax[block] = m_new;
    state.v_absmax[block] = v_new;
  }
  NT_UNROLL
  for (int c = 0; c < kChunks; c++) {
    const int64_t i = begin + c * 128 + lane * 4;
    const int left = n - i >= 4 ? 4 : (n > i ? int(n - i) : 0);
    uint32_t m_codes = 0, v_codes = 0;
    NT_UNROLL
    for (int k = 0; k < 4; k++) {
      m_codes |= uint32_t(nt_first_moment_code(signed_map, first[c][k], m_new)) << 8 * k;
      v_codes |= uint32_t(nt_second_moment_code(unsigned_map, second[c][k], v_new)) << 8 * k;
    }
    store_codes<vector>(state.m + i, m_codes, left);
    store_codes<vector>(state.v + i, v_codes, left);
  }
}

int32_t adamw_8bit(nt_context *context, float *parameters, void *copy, const float *gradients, const State8bit &state,
                   int64_t n, const AdamwStep &s, const float *gradient_scale) {
  const auto at4 = [](const void *pointer) { return reinterpret_cast<uintptr_t>(pointer) % 4 == 0; };
  const bool vector = aligned16(parameters, gradients) && reinterpret_cast<uintptr_t>(copy) % 8 == 0 &&
                      at4(state.m) && at4(state.v);
  auto *kernel = vector ? adamw_8bit_kernel<true> : adamw_8bit_kernel<false>;
  NT_CUDA(launch(kernel, dim3(unsigned(ceil_div(n, kWarps * int64_t(NT_STATE_BLOCK)))), dim3(kThreads), 0,
                 context->stream, parameters, static_cast<bf16 *>(copy), gradients, state, n, s, gradient_scale),
          "adamw_8bit");
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/adamw_8bit.h"
