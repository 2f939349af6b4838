// dK and dV at head_dim 256 (attention_backward_kv.h), where the sums of 16 keys, 2 · 256 columns, are all the registers
// there are: two warps share 16 keys, and each makes two of the four products.
//   one:       Sᵀ = K·Qᵀ,  P = exp2(…), which it gives to the other,  dV += Pᵀ·dO
//   the other: dPᵀ = V·dOᵀ,                                           dK += dSᵀ·Q
// P is exchanged in float32, between the lanes that want it: lane l writes what lane l reads, 16 bytes at a time.
//
// shared memory a block   keys a block × queries a tile   pairs × keys   registers of sums   of it used
//        227 KB                    64 × 64                   4 × 16         128 + 32           209 KB
//        163 KB                    64 × 32                   4 × 16         128 + 16           137 KB
//         99 KB                    32 × 16                   2 × 16         128 +  8            66 KB
#include "attention_backward_kv.h"

namespace nt {
namespace {

template <int HeadDim, int Pairs, int Columns>
struct KvPairTiling : KvTile<HeadDim, 16 * Pairs, 2 * Pairs, Columns, 1, 16 * Pairs * Columns * int(sizeof(float))> {
  typedef KvTile<HeadDim, 16 * Pairs, 2 * Pairs, Columns, 1, 16 * Pairs * Columns * int(sizeof(float))> Base;
  typedef typename Base::Own Own;
  typedef typename Base::Other Other;
  typedef float Sums[1][HeadDim / 8][4];

  // Of the two warps that share keys, whether this is the one of dK.
  __device__ __forceinline__ static bool has_dk() { return (computed_here(threadIdx.x) & 32) != 0; }

  template <bool masked>
  __device__ __forceinline__ static void step(Sums &sums, unsigned char *keys, const QueryTile &tile, float factor) {
    constexpr int N = Columns / 8;
    const Lane lane = this_lane<Own, 1, 2>();
    const bool is_dk = has_dk();
    const bool sees = !masked || (tile.first + lane.row < Columns && tile.first + lane.row + 16 + tile.window > 1);
    const int diagonal = tile.first + lane.row + (lane.index >> 2) - 2 * (lane.index & 3);

    const unsigned char *own = keys + lane.row * Own::kRowBytes + (is_dk ? Own::kBytes : 0);
    const unsigned char *douts = tile.queries + Other::kBytes;
    const float *statistics =
        reinterpret_cast<const float *>(douts + Other::kBytes) + (is_dk ? Columns : 0) + 2 * (lane.index & 3);
    float4 *exchanged = reinterpret_cast<float4 *>(keys + Base::before_exchange) + lane.row * (Columns / 4) + lane.index;

    float x[1][N][4] = {};  // S and P, or dP and dS
    if (sees) {
      multiply_rows<Own, Other, HeadDim>(x, own, is_dk ? douts : tile.queries, lane);
      if (!is_dk) {
        NT_UNROLL
        for (int n = 0; n < N; n++) {
          const float2 minus_lse = *reinterpret_cast<const float2 *>(statistics + 8 * n);
          NT_UNROLL
          for (int i = 0; i < 4; i++) {
            x[0][n][i] = exp2_fast(fmaf(x[0][n][i], factor, i & 1 ? minus_lse.y : minus_lse.x));
            const int behind = 8 * n + (i & 1) - 8 * (i >> 1) - diagonal;  // the query's position − the key's
            if (masked && unsigned(behind) >= unsigned(tile.window)) x[0][n][i] = 0.0f;
          }
          exchanged[32 * n] = make_float4(x[0][n][0], x[0][n][1], x[0][n][2], x[0][n][3]);
        }
      }
    }
    __syncthreads();  // P is there
    if (!sees) return;
    if (is_dk) {
      NT_UNROLL
      for (int n = 0; n < N; n++) {
        const float2 minus_delta = *reinterpret_cast<const float2 *>(statistics + 8 * n);
        const float4 p = exchanged[32 * n];
        NT_UNROLL
        for (int i = 0; i < 4; i++) {
          x[0][n][i] = (&p.x)[i] * (x[0][n][i] + (i & 1 ? minus_delta.y : minus_delta.x));
          const int behind = 8 * n + (i & 1) - 8 * (i >> 1) - diagonal;
          if (masked && unsigned(behind) >= unsigned(tile.window)) x[0][n][i] = 0.0f;
        }
      }
    }
    NT_UNROLL
    for (int k = 0; k < N / 2; k++) {
      uint32_t operand[1][4];
      pack_half(operand, 0, 0, x[0][2 * k]);
      pack_half(operand, 0, 1, x[0][2 * k + 1]);
      multiply_columns<Other, HeadDim>(sums, operand, is_dk ? tile.queries : douts, 16 * k, lane.down);
    }
  }

  __device__ __forceinline__ static void store(Sums &sums, const BackwardArguments &a, const Place &place,
                                               unsigned char *keys) {
    const int first = place.token + place.begin, valid = place.end - place.begin;
    const int64_t to = int64_t(first) * a.ldd + computed_here(blockIdx.x) * HeadDim;
    const bool is_dk = has_dk();
    if (is_dk) turn_back<Own, HeadDim, 2>(sums, a.rope, first, valid);
    // On the way out they lie where the warp's own keys, or values, were.
    store_rows<Own, HeadDim, 2>((is_dk ? a.dk : a.dv) + to, a.ldd, valid, sums, is_dk ? a.scale : 1.0f,
                                is_dk ? keys + Own::kBytes : keys);
  }
};

}  // namespace

int32_t attention_backward_kv_wide(nt_context *context, const AttentionBackward &call) {
  typedef KvPairTiling<256, 4, 64> Wide;
  typedef KvPairTiling<256, 4, 32> Middle;
  if (context->shared_limit >= Wide::bytes) return launch_kv<Wide>(context, call);
  if (context->shared_limit >= Middle::bytes) return launch_kv<Middle>(context, call);
  return launch_kv<KvPairTiling<256, 2, 16>>(context, call);
}

}  // namespace nt
