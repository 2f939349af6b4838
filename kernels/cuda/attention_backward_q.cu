// The second pass of the attention backward: dQ, by tiles of queries. A block owns a tile of queries of one head and
// walks over the key tiles up to its own positions, each of which makes three products:
//   S = Q·Kᵀ,  dP = dO·Vᵀ,  dQ += dS·K,
// the first two once more after the first pass: that is the price of sums that stay in registers, in the order of the
// walk, without atomics. dS leaves the second product in the lanes in which the third wants its A operand.
//
// Shared memory: Q, dO [rows], then K [2][columns], V [2][columns] (Tile's layout). While a tile is multiplied, the next
// one arrives in the other half; one barrier a tile. Rows past the sample's end are zeros and have lse = ∞, so P = 0.
//
//               queries a block × keys a tile   warps × queries   registers of sums   shared memory
// head_dim 128          128 × 32                    4 × 32            128 + 64         96 KB, two blocks
//                       256 × 32                    8 × 32            128 + 64        160 KB, where two do not fit
//                       128 × 32                    8 × 16             64 + 32         96 KB, on cards with 99 KB
//           96          128 × 32                    4 × 32             96 + 64         72 KB, two blocks
//                       128 × 64                    8 × 16             48 + 64         96 KB, on cards with 99 KB
//           64          128 × 32                    4 × 32             64 + 64         48 KB, two blocks
// At head_dim 64 there is room for the warp's Q and dO as operands in registers.
#include "attention_backward.h"

namespace nt {
namespace {

template <int HeadDim, int M, int Warps, int Columns, int Blocks>
struct QTiling {
  static constexpr int head_dim = HeadDim, m = M, columns = Columns, blocks = Blocks;
  static constexpr int threads = 32 * Warps, rows = 16 * M * Warps;
  static constexpr bool held = HeadDim == 64;
  typedef Tile<HeadDim, rows> Own;
  typedef Tile<HeadDim, Columns> Other;
  static constexpr int bytes = 2 * Own::kBytes + 4 * Other::kBytes;
  static_assert(rows % Columns == 0, "the tiles of the diagonal are the last rows / columns");
};

// The warp's queries and what else is the same for every key tile.
template <class Tiling>
struct Queries {
  static constexpr int M = Tiling::m, K = Tiling::held ? Tiling::head_dim / 16 : 1;
  const unsigned char *q, *dout;
  uint32_t q_operand[K][M][4], dout_operand[K][M][4];
  float minus_lse[M][2], minus_delta[M][2];  // of rows lane / 4 and lane / 4 + 8; lse times log₂ e

  __device__ __forceinline__ void hold(int down) {
    if constexpr (Tiling::held) {
      NT_UNROLL
      for (int k = 0; k < K; k++) {
        load_operand<typename Tiling::Own>(q_operand[k], q, k, down);
        load_operand<typename Tiling::Own>(dout_operand[k], dout, k, down);
      }
    }
  }
  template <int N>
  __device__ __forceinline__ void multiply(float (&s)[M][N][4], float (&dp)[M][N][4], const unsigned char *keys,
                                           const unsigned char *values, int down) const {
    typedef typename Tiling::Own Own;
    typedef typename Tiling::Other Other;
    if constexpr (Tiling::held) {
      NT_UNROLL
      for (int k = 0; k < K; k++) multiply_rows<Other>(s, q_operand[k], keys, k, down);
      NT_UNROLL
      for (int k = 0; k < K; k++) multiply_rows<Other>(dp, dout_operand[k], values, k, down);
    } else {
      multiply_rows<Own, Other, Tiling::head_dim>(s, q, keys, down);
      multiply_rows<Own, Other, Tiling::head_dim>(dp, dout, values, down);
    }
  }
};

// One key tile for the warp's queries. `first`: the column whose position is that of the warp's first query; with
// `masked`, query r of the warp sees columns up to first + r only, else all.
template <class Tiling, bool masked>
__device__ __forceinline__ void q_step(float (&dq)[Tiling::m][Tiling::head_dim / 8][4], const Queries<Tiling> &queries,
                                       const unsigned char *keys, const unsigned char *values, float factor, int first,
                                       int lane, int down) {
  constexpr int head_dim = Tiling::head_dim, M = Tiling::m, N = Tiling::columns / 8;
  const int diagonal = first + (lane >> 2) - 2 * (lane & 3);  // column − row of this lane's first value, if on it

  float p[M][N][4] = {}, ds[M][N][4];
  NT_UNROLL
  for (int m = 0; m < M; m++) {
    NT_UNROLL
    for (int n = 0; n < N; n++) {
      NT_UNROLL
      for (int i = 0; i < 4; i++) ds[m][n][i] = queries.minus_delta[m][i >> 1];
    }
  }
  queries.multiply(p, ds, keys, values, down);

  NT_UNROLL
  for (int k = 0; k < N / 2; k++) {
    uint32_t operand[M][4];
    NT_UNROLL
    for (int half = 0; half < 2; half++) {
      const int n = 2 * k + half;
      NT_UNROLL
      for (int m = 0; m < M; m++) {
        NT_UNROLL
        for (int i = 0; i < 4; i++) {
          ds[m][n][i] *= exp2_fast(fmaf(p[m][n][i], factor, queries.minus_lse[m][i >> 1]));
          if (masked && 8 * n + (i & 1) - 16 * m - 8 * (i >> 1) > diagonal) ds[m][n][i] = 0.0f;
        }
        pack_half(operand, m, half, ds[m][n]);
      }
    }
    multiply_columns<typename Tiling::Other, head_dim>(dq, operand, keys, 16 * k, down);
  }
}

template <class Tiling>
__global__ void __launch_bounds__(Tiling::threads, Tiling::blocks)
    attention_backward_q_kernel(const BackwardArguments a) {
  NT_DYNAMIC_SHARED(shared);
  typedef typename Tiling::Own Own;
  typedef typename Tiling::Other Other;
  constexpr int head_dim = Tiling::head_dim, columns = Tiling::columns, threads = Tiling::threads, M = Tiling::m;
  unsigned char *own = shared, *own_dout = own + Own::kBytes;
  unsigned char *keys = own_dout + Own::kBytes, *values = keys + 2 * Other::kBytes;

  const int lane = threadIdx.x & 31, row = 16 * M * int(threadIdx.x >> 5);
  const int down = Own::lane_down(lane);
  const SampleTile tile = a.tiles[blockIdx.x / a.heads];
  const int head = blockIdx.x % a.heads, kv_head = head / (a.heads / a.kv_heads);
  const int begin = tile.first, end = min(begin + Tiling::rows, tile.length);

  load_tiles<Own, Tiling::rows, threads>(own, a.q, a.ld, own_dout, a.dout, a.ldo, tile.token, begin, tile.length,
                                         head * head_dim);
  copy_async_commit();
  auto load = [&](int stage, int at) {
    load_tiles<Other, columns, threads>(keys + stage * Other::kBytes, a.k, a.ld, values + stage * Other::kBytes, a.v,
                                        a.ld, tile.token, at, end, kv_head * head_dim);
    copy_async_commit();
  };
  load(0, 0);

  Queries<Tiling> queries;
  queries.q = own + row * Own::kRowBytes;
  queries.dout = own_dout + row * Own::kRowBytes;
  NT_UNROLL
  for (int m = 0; m < M; m++) {
    NT_UNROLL
    for (int half = 0; half < 2; half++) {
      const int position = begin + row + 16 * m + 8 * half + (lane >> 2);
      const int64_t at = head * a.tokens + tile.token + position;
      queries.minus_lse[m][half] = position < end ? -kLog2E * a.lse[at] : -INFINITY;
      queries.minus_delta[m][half] = position < end ? -a.delta[at] : 0.0f;
    }
  }
  if (Tiling::held) {
    copy_async_wait<1>();
    __syncthreads();
    queries.hold(down);
  }

  float dq[M][head_dim / 8][4] = {};
  const float factor = a.scale * kLog2E;
  int at = 0, stage = 0;
  auto step = [&](auto masked) {
    copy_async_wait<0>();
    __syncthreads();  // this tile is there, and all are done with the one before
    if (at + columns < end) load(stage ^ 1, at + columns);
    const int first = begin + row - at;
    if (!masked.value || first > -16 * M)  // else no query of the warp sees the tile
      q_step<Tiling, masked.value>(dq, queries, keys + stage * Other::kBytes, values + stage * Other::kBytes, factor,
                                   first, lane, down);
    stage ^= 1;
    at += columns;
  };
  while (at < begin) step(Flag<false>());
  while (at < end) step(Flag<true>());

  store_rows<Own, head_dim>(a.dq + int64_t(tile.token + begin + row) * a.ldd + head * head_dim, a.ldd,
                            end - begin - row, dq, a.scale, own + row * Own::kRowBytes, lane);
}

template <class Tiling>
int32_t launch_q(nt_context *context, const AttentionBackward &call) {
  TileTable table;
  if (int32_t status = tile_table(context, call.size, Tiling::rows, TileOrder::kQueries, &table)) return status;
  const BackwardArguments arguments = backward_arguments(call, table.tiles);
  NT_CUDA(nt::launch(attention_backward_q_kernel<Tiling>, unsigned(table.count * call.size.heads), Tiling::threads,
                     Tiling::bytes, context->stream, arguments),
          "attention_backward_q");
  return NT_OK;
}

}  // namespace

int32_t attention_backward_q(nt_context *context, const AttentionBackward &call) {
  const int limit = context->shared_limit;
  if (call.size.head_dim == 64) return launch_q<QTiling<64, 2, 4, 32, 2>>(context, call);
  if (call.size.head_dim == 96) {
    typedef QTiling<96, 2, 4, 32, 2> Two;
    return limit >= 2 * Two::bytes ? launch_q<Two>(context, call) : launch_q<QTiling<96, 1, 8, 64, 1>>(context, call);
  }
  typedef QTiling<128, 2, 4, 32, 2> Two;
  typedef QTiling<128, 2, 8, 32, 1> Wide;
  if (limit >= 2 * Two::bytes) return launch_q<Two>(context, call);
  return limit >= Wide::bytes ? launch_q<Wide>(context, call) : launch_q<QTiling<128, 1, 8, 32, 1>>(context, call);
}

}  // namespace nt
