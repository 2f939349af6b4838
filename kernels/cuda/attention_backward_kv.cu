// The second pass of the attention backward: dK and dV, by tiles of keys (FlashAttention-2, arXiv 2307.08691, with the
// products transposed). A block owns a tile of keys and values of one key/value head and walks over the query heads of
// its group and, for each, over the query tiles from its own positions on. A tile makes four products:
//   Sᵀ = K·Qᵀ,  dPᵀ = V·dOᵀ,  dV += Pᵀ·dO,  dK += dSᵀ·Q.
// Being transposed, Pᵀ and dSᵀ leave the first two in the lanes in which the last two want their A operand, so nothing
// but Q and dO passes through shared memory. Sums over tiles and heads stay in registers, in the order of the walk: no
// atomics, the same bits every time.
//
// Shared memory: K, V [rows], then twice Q, dO [columns] (Tile's layout) and two rows of floats, −lse · log₂e and −D of
// the columns. While one tile is multiplied, the next arrives in the other place; one barrier a tile. Rows past the
// sample's end are zeros, and queries past it have lse = ∞, which makes their P 0.
//
//             keys a block × queries a tile   warps × keys   registers of sums   shared memory
// head_dim 128         128 × 64 (32)              8 × 16       128 + 64 (32)       129 (97) KB
//       96, 80         128 × 64                   8 × 16        96 + 64             97 KB
//           64         128 × 32                   4 × 32       128 + 64             49 KB, two blocks
// In parentheses: cards with 99 KB a block.
#include "attention_backward.h"

namespace nt {
namespace {

template <int HeadDim, int M, int Warps, int Columns, int Blocks>
struct KvTiling {
  static constexpr int head_dim = HeadDim, m = M, columns = Columns, blocks = Blocks;
  static constexpr int threads = 32 * Warps, rows = 16 * M * Warps;
  typedef Tile<HeadDim, rows> Own;
  typedef Tile<HeadDim, Columns> Other;
  static constexpr int statistics = 2 * Columns;
  static constexpr int stage = 2 * Other::kBytes + statistics * int(sizeof(float));
  static constexpr int bytes = 2 * Own::kBytes + 2 * stage;
  static_assert(rows % Columns == 0, "tiles of queries behind the block's last row are behind all of its rows");
  static_assert(statistics <= threads, "a thread loads one statistic of a tile");
};

// One query tile for the warp's keys. `first`: the column whose position is that of the block's first key; with
// `masked`, the `window` columns from first + r on see key r of the block, else all.
template <class Tiling, bool masked>
__device__ __forceinline__ void kv_step(float (&dk)[Tiling::m][Tiling::head_dim / 8][4],
                                        float (&dv)[Tiling::m][Tiling::head_dim / 8][4], const unsigned char *keys,
                                        const unsigned char *queries, float factor, int first, int window) {
  typedef typename Tiling::Own Own;
  typedef typename Tiling::Other Other;
  constexpr int head_dim = Tiling::head_dim, M = Tiling::m, N = Tiling::columns / 8;
  const Lane lane = this_lane<Own, M>();
  // No key of the warp is seen.
  if (masked && (first + lane.row >= Tiling::columns || first + lane.row + 16 * M + window <= 1)) return;
  // This lane's row and column cancel all but the constants below.
  const int diagonal = first + lane.row + (lane.index >> 2) - 2 * (lane.index & 3);

  const unsigned char *own = keys + lane.row * Own::kRowBytes, *douts = queries + Other::kBytes;
  float p[M][N][4] = {}, ds[M][N][4] = {};
  multiply_rows<Own, Other, head_dim>(p, own, queries, lane);
  multiply_rows<Own, Other, head_dim>(ds, own + Own::kBytes, douts, lane);

  const float *minus_lse = reinterpret_cast<const float *>(douts + Other::kBytes) + 2 * (lane.index & 3);
  const float *minus_delta = minus_lse + Tiling::columns;
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
          if (masked && unsigned(behind) >= unsigned(window)) p[m][n][i] = ds[m][n][i] = 0.0f;
        }
        pack_half(p_operand, m, half, p[m][n]);
        pack_half(ds_operand, m, half, ds[m][n]);
      }
    }
    multiply_columns<Other, head_dim>(dv, p_operand, douts, 16 * k, lane.down);
    multiply_columns<Other, head_dim>(dk, ds_operand, queries, 16 * k, lane.down);
  }
}

template <class Tiling>
__global__ void __launch_bounds__(Tiling::threads, Tiling::blocks)
    attention_backward_kv_kernel(const BackwardArguments a) {
  NT_DYNAMIC_SHARED(shared);
  typedef typename Tiling::Own Own;
  typedef typename Tiling::Other Other;
  constexpr int head_dim = Tiling::head_dim, columns = Tiling::columns, threads = Tiling::threads;
  unsigned char *keys = shared, *values = keys + Own::kBytes;
  unsigned char *queries = values + Own::kBytes, *next_queries = queries + Tiling::stage;  // dO, statistics follow Q

  const Place place = tile_place(a.tiles, blockIdx.z);
  load_tiles<Own, Tiling::rows, threads>(keys, a.k, a.ld, values, a.v, a.ld, place.token, place.begin, place.end,
                                         int(blockIdx.x) * head_dim);
  // Query tiles of a head start at `begin`, so that those of the diagonal are the first rows / columns.
  auto load = [&](unsigned char *to, int head, int at) {
    load_tiles<Other, columns, threads>(to, a.q, a.ld, to + Other::kBytes, a.dout, a.ldo, place.token, at, place.end,
                                        head * head_dim);
    copy_async_commit();
  };
  // What this thread, one of the first 2 · columns, puts into the statistics of a tile: read before the tile before it
  // is multiplied, written after.
  auto load_statistic = [&](int head, int at) {
    const int thread = computed_here(threadIdx.x);
    const bool is_lse = thread < columns;
    const int position = at + (is_lse ? thread : thread - columns);
    float x = is_lse ? INFINITY : 0.0f;
    if (thread < Tiling::statistics && position < place.end)
      x = (is_lse ? a.lse : a.delta)[head * a.tokens + place.token + position];
    return is_lse ? -kLog2E * x : -x;
  };
  auto store_statistic = [&](unsigned char *to, float x) {
    const int thread = computed_here(threadIdx.x);
    if (thread < Tiling::statistics) reinterpret_cast<float *>(to + 2 * Other::kBytes)[thread] = x;
  };
  int head = int(blockIdx.x) * a.group, at = place.begin;
  const int last_head = head + a.group;
  load(queries, head, at);
  store_statistic(queries, load_statistic(head, at));

  float dk[Tiling::m][head_dim / 8][4] = {}, dv[Tiling::m][head_dim / 8][4] = {};
  auto step = [&](auto masked) {
    copy_async_wait<0>();
    __syncthreads();  // this tile is there, and all are done with the one before
    const int first = place.begin - at;
    at += columns;
    if (at >= min(place.end, place.begin + Tiling::rows - 1 + a.window)) {
      at = place.begin;
      head++;
    }
    float statistic = 0.0f;
    if (head < last_head) {
      load(next_queries, head, at);
      statistic = load_statistic(head, at);
    }
    kv_step<Tiling, masked.value>(dk, dv, keys, queries, a.factor, first, a.window);
    store_statistic(next_queries, statistic);
    unsigned char *const done = queries;
    queries = next_queries;
    next_queries = done;
  };
  while (head < last_head) {
    if (at < place.begin + Tiling::rows || at + columns > place.begin + a.window)
      step(Flag<true>());  // on the diagonal or at the edge of the window
    else
      step(Flag<false>());
  }

  const Place out = tile_place(a.tiles, blockIdx.z);
  const int64_t to = int64_t(out.token + out.begin) * a.ldd + computed_here(blockIdx.x) * head_dim;
  turn_back<Own, head_dim>(dk, a.rope, out.token + out.begin, out.end - out.begin);
  store_rows<Own, head_dim>(a.dk + to, a.ldd, out.end - out.begin, dk, a.scale, keys);
  store_rows<Own, head_dim>(a.dv + to, a.ldd, out.end - out.begin, dv, 1.0f, values);
}

template <class Tiling>
int32_t launch_kv(nt_context *context, const AttentionBackward &call) {
  return launch_tiles<Tiling>(context, attention_backward_kv_kernel<Tiling>, call, TileOrder::kKeys,
                              call.size.kv_heads, 1, "attention_backward_kv");
}

}  // namespace

int32_t attention_backward_kv(nt_context *context, const AttentionBackward &call) {
  if (call.size.head_dim == 64) return launch_kv<KvTiling<64, 2, 4, 32, 2>>(context, call);
  if (call.size.head_dim == 80) return launch_kv<KvTiling<80, 1, 8, 64, 1>>(context, call);
  if (call.size.head_dim == 96) return launch_kv<KvTiling<96, 1, 8, 64, 1>>(context, call);
  typedef KvTiling<128, 1, 8, 64, 1> Wide;
  if (context->shared_limit >= Wide::bytes) return launch_kv<Wide>(context, call);
  return launch_kv<KvTiling<128, 1, 8, 32, 1>>(context, call);
}

}  // namespace nt
