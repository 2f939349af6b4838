// dK and dV where a warp holds both of its keys (attention_backward_kv.h):
//
//             keys a block × queries a tile   warps × keys   registers of sums   shared memory
// head_dim 128         128 × 64 (32)              8 × 16       128 + 64 (32)       129 (97) KB
//          100         128 × 32                   8 × 16       112 + 32             97 KB
//       96, 80         128 × 64                   8 × 16        96 + 64             97 KB
//           64         128 × 32                   4 × 32       128 + 64             49 KB, two blocks
// In parentheses: cards with 99 KB a block.
#include "attention_backward_kv.h"

namespace nt {
namespace {

template <int HeadDim, int M, int Warps, int Columns, int Blocks>
struct KvTiling : KvTile<HeadDim, 16 * M * Warps, Warps, Columns, Blocks> {
  typedef KvTile<HeadDim, 16 * M * Warps, Warps, Columns, Blocks> Base;
  typedef typename Base::Own Own;
  typedef typename Base::Other Other;
  struct Sums {
    float dk[M][HeadDim / 8][4], dv[M][HeadDim / 8][4];
  };

  template <bool masked>
  __device__ __forceinline__ static void step(Sums &sums, const unsigned char *keys, const QueryTile &tile,
                                              float factor) {
    constexpr int N = Columns / 8;
    const Lane lane = this_lane<Own, M>();
    // No key of the warp is seen.
    if (masked && (tile.first + lane.row >= Columns || tile.first + lane.row + 16 * M + tile.window <= 1)) return;
    // This lane's row and column cancel all but the constants below.
    const int diagonal = tile.first + lane.row + (lane.index >> 2) - 2 * (lane.index & 3);

    const unsigned char *own = keys + lane.row * Own::kRowBytes, *douts = tile.queries + Other::kBytes;
    float p[M][N][4] = {}, ds[M][N][4] = {};
    multiply_rows<Own, Other, HeadDim>(p, own, tile.queries, lane);
    multiply_rows<Own, Other, HeadDim>(ds, own + Own::kBytes, douts, lane);

    const float *minus_lse = reinterpret_cast<const float *>(douts + Other::kBytes) + 2 * (lane.index & 3);
    const float *minus_delta = minus_lse + Columns;
    NT_UNROLL
    for (int k = 0; k < N / 2; k++) {
      uint32_t p_operand[M][4], ds_operand[M][4];
      NT_UNROLL
      for (int half = 0; half < 2; half++) {
        const int n = 2 * k + half;
        const float2 lse = *reinterpret_cast<const float2 *>(minus_lse + 8 * n);
        const float2 delta = *reinterpret_cast<const float2 *>(minus_delta + 8 * n);
        NT_UNROLL
        for (int m = 0; m < M; m++) {
          NT_UNROLL
          for (int i = 0; i < 4; i++) {
            p[m][n][i] = exp2_fast(fmaf(p[m][n][i], factor, i & 1 ? lse.y : lse.x));
            ds[m][n][i] = p[m][n][i] * (ds[m][n][i] + (i & 1 ? delta.y : delta.x));
            const int behind = 8 * n + (i & 1) - 16 * m - 8 * (i >> 1) - diagonal;  // the query's position − the key's
            if (masked && unsigned(behind) >= unsigned(tile.window)) p[m][n][i] = ds[m][n][i] = 0.0f;
          }
          pack_half(p_operand, m, half, p[m][n]);
          pack_half(ds_operand, m, half, ds[m][n]);
        }
      }
      multiply_columns<Other, HeadDim>(sums.dv, p_operand, douts, 16 * k, lane.down);
      multiply_columns<Other, HeadDim>(sums.dk, ds_operand, tile.queries, 16 * k, lane.down);
    }
  }

  __device__ __forceinline__ static void store(Sums &sums, const BackwardArguments &a, const Place &place,
                                               unsigned char *keys) {
    const int first = place.token + place.begin, valid = place.end - place.begin;
    const int64_t to = int64_t(first) * a.ldd + computed_here(blockIdx.x) * kHeadColumns<HeadDim>;
    turn_back<Own, HeadDim>(sums.dk, a.rope, first, valid);
    store_rows<Own, HeadDim>(a.dk + to, a.ldd, valid, sums.dk, a.scale, keys);
    store_rows<Own, HeadDim>(a.dv + to, a.ldd, valid, sums.dv, 1.0f, keys + Own::kBytes);
  }
};

}  // namespace

int32_t attention_backward_kv(nt_context *context, const AttentionBackward &call) {
  if (call.size.head_dim == 64) return launch_kv<KvTiling<64, 2, 4, 32, 2>>(context, call);
  if (call.size.head_dim == 80) return launch_kv<KvTiling<80, 1, 8, 64, 1>>(context, call);
  if (call.size.head_dim == 96) return launch_kv<KvTiling<96, 1, 8, 64, 1>>(context, call);
  if (call.size.head_dim == 100) return launch_kv<KvTiling<112, 1, 8, 32, 1>>(context, call);
  if (call.size.head_dim == 256) return attention_backward_kv_wide(context, call);
  typedef KvTiling<128, 1, 8, 64, 1> Wide;
  if (context->shared_limit >= Wide::bytes) return launch_kv<Wide>(context, call);
  return launch_kv<KvTiling<128, 1, 8, 32, 1>>(context, call);
}

}  // namespace nt
