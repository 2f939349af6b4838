// The first pass of the attention backward: dK and dV, by tiles of keys (FlashAttention-2, arXiv 2307.08691, with the
// products transposed). A block owns a tile of keys and values of one key/value head and walks over the query heads of
// its group and, for each, over the query tiles from its own positions on. A tile makes four products:
//   Sᵀ = K·Qᵀ,  dPᵀ = V·dOᵀ,  dV += Pᵀ·dO,  dK += dSᵀ·Q.
// Being transposed, Pᵀ and dSᵀ leave the first two in the lanes in which the last two want their A operand, so nothing
// but Q and dO passes through shared memory. Sums over tiles and heads stay in registers, in the order of the walk: no
// atomics, the same bits every time.
//
// Shared memory: K, V [rows], then Q [2][columns], dO [2][columns] (Tile's layout), then [2][2][columns] floats:
// −lse · log₂e and −D of the columns. While a tile is multiplied, the next one arrives in the other half; one barrier a
// tile. Rows past the sample's end are zeros, and queries past it have lse = ∞, which makes their P 0.
//
//             keys a block × queries a tile   warps × keys   registers of sums   shared memory
// head_dim 128         128 × 64 (32)              8 × 16       128 + 64 (32)       129 (97) KB
//           96         128 × 64                   8 × 16        96 + 64             97 KB
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
  static constexpr int bytes = 2 * Own::kBytes + 4 * Other::kBytes + 2 * statistics * int(sizeof(float));
  static_assert(rows % Columns == 0 && statistics <= threads, "");
};

// One query tile for the warp's keys. `first`: the column whose position is that of the warp's first key; with `masked`,
// key r of the warp sees columns first + r and later only, else all.
template <class Tiling, bool masked>
__device__ __forceinline__ void kv_step(float (&dk)[Tiling::m][Tiling::head_dim / 8][4],
                                        float (&dv)[Tiling::m][Tiling::head_dim / 8][4], const unsigned char *keys,
                                        const unsigned char *values, const unsigned char *queries,
                                        const unsigned char *douts, const float *statistics, float factor, int first,
                                        int lane, int down) {
  typedef typename Tiling::Own Own;
  typedef typename Tiling::Other Other;
  constexpr int head_dim = Tiling::head_dim, M = Tiling::m, N = Tiling::columns / 8;
  const int diagonal = first + (lane >> 2) - 2 * (lane & 3);  // column − row of this lane's first value, if on it
  const float *minus_lse = statistics + 2 * (lane & 3), *minus_delta = minus_lse + Tiling::columns;

  float p[M][N][4] = {}, ds[M][N][4];
  NT_UNROLL
  for (int n = 0; n < N; n++) {
    const float2 start = *reinterpret_cast<const float2 *>(minus_delta + 8 * n);
    NT_UNROLL
    for (int m = 0; m < M; m++) {
      ds[m][n][0] = ds[m][n][2] = start.x;
      ds[m][n][1] = ds[m][n][3] = start.y;
    }
  }
  multiply_rows<Own, Other, head_dim>(p, keys, queries, down);
  multiply_rows<Own, Other, head_dim>(ds, values, douts, down);

  NT_UNROLL
  for (int k = 0; k < N / 2; k++) {
    uint32_t p_operand[M][4], ds_operand[M][4];
    NT_UNROLL
    for (int half = 0; half < 2; half++) {
      const int n = 2 * k + half;
      const float2 shift = *reinterpret_cast<const float2 *>(minus_lse + 8 * n);
      NT_UNROLL
      for (int m = 0; m < M; m++) {
        NT_UNROLL
        for (int i = 0; i < 4; i++) {
          p[m][n][i] = exp2_fast(fmaf(p[m][n][i], factor, i & 1 ? shift.y : shift.x));
          ds[m][n][i] *= p[m][n][i];
          if (masked && 8 * n + (i & 1) - 16 * m - 8 * (i >> 1) < diagonal) p[m][n][i] = ds[m][n][i] = 0.0f;
        }
        pack_half(p_operand, m, half, p[m][n]);
        pack_half(ds_operand, m, half, ds[m][n]);
      }
    }
    multiply_columns<Other, head_dim>(dv, p_operand, douts, 16 * k, down);
    multiply_columns<Other, head_dim>(dk, ds_operand, queries, 16 * k, down);
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
  unsigned char *queries = values + Own::kBytes, *douts = queries + 2 * Other::kBytes;
  float *statistics = reinterpret_cast<float *>(douts + 2 * Other::kBytes);

  const int thread = threadIdx.x, lane = thread & 31, row = 16 * Tiling::m * (thread >> 5);
  const int down = Own::lane_down(lane);
  const SampleTile tile = a.tiles[blockIdx.x / a.kv_heads];
  const int kv_head = blockIdx.x % a.kv_heads, group = a.heads / a.kv_heads;
  const int begin = tile.first, end = tile.length;

  load_tiles<Own, Tiling::rows, threads>(keys, a.k, a.ld, values, a.v, a.ld, tile.token, begin, end,
                                         kv_head * head_dim);

  // Query tiles of a head start at `begin`, so that those of the diagonal are the first rows / columns.
  auto load = [&](int stage, int head, int at) {
    load_tiles<Other, columns, threads>(queries + stage * Other::kBytes, a.q, a.ld, douts + stage * Other::kBytes,
                                        a.dout, a.ldo, tile.token, at, end, head * head_dim);
    copy_async_commit();
  };
  // What this thread, one of the first 2 · columns, puts into the statistics of a tile.
  auto load_statistic = [&](int head, int at) {
    const bool is_lse = thread < columns;
    const int position = at + (is_lse ? thread : thread - columns);
    float x = is_lse ? INFINITY : 0.0f;
    if (thread < Tiling::statistics && position < end)
      x = (is_lse ? a.lse : a.delta)[head * a.tokens + tile.token + position];
    return is_lse ? -kLog2E * x : -x;
  };

  int head = kv_head * group, at = begin, stage = 0;
  const int last_head = head + group;
  load(0, head, at);
  if (thread < Tiling::statistics) statistics[thread] = load_statistic(head, at);

  float dk[Tiling::m][head_dim / 8][4] = {}, dv[Tiling::m][head_dim / 8][4] = {};
  const float factor = a.scale * kLog2E;
  auto step = [&](auto masked) {
    copy_async_wait<0>();
    __syncthreads();  // this tile is there, and all are done with the one before
    int next = at + columns, next_head = head;
    if (next >= end) {
      next = begin;
      next_head++;
    }
    float statistic = 0.0f;
    if (next_head < last_head) {
      load(stage ^ 1, next_head, next);
      statistic = load_statistic(next_head, next);
    }
    const int first = begin + row - at;
    if (!masked.value || first < columns)  // else no key of the warp is seen
      kv_step<Tiling, masked.value>(dk, dv, keys + row * Own::kRowBytes, values + row * Own::kRowBytes,
                                    queries + stage * Other::kBytes, douts + stage * Other::kBytes,
                                    statistics + stage * Tiling::statistics, factor, first, lane, down);
    stage ^= 1;
    if (thread < Tiling::statistics) statistics[stage * Tiling::statistics + thread] = statistic;
    at = next;
    head = next_head;
  };
  while (head < last_head) {
    const int current = head;
    do step(Flag<true>());
    while (head == current && at < begin + Tiling::rows);
    while (head == current) step(Flag<false>());
  }

  const int64_t to = int64_t(tile.token + begin + row) * a.ldd + kv_head * head_dim;
  store_rows<Own, head_dim>(a.dk + to, a.ldd, end - begin - row, dk, a.scale, keys + row * Own::kRowBytes, lane);
  store_rows<Own, head_dim>(a.dv + to, a.ldd, end - begin - row, dv, 1.0f, values + row * Own::kRowBytes, lane);
}

template <class Tiling>
int32_t launch_kv(nt_context *context, const AttentionBackward &call) {
  TileTable table;
  if (int32_t status = tile_table(context, call.size, Tiling::rows, TileOrder::kKeys, &table)) return status;
  const BackwardArguments arguments = backward_arguments(call, table.tiles);
  NT_CUDA(nt::launch(attention_backward_kv_kernel<Tiling>, unsigned(table.count * call.size.kv_heads), Tiling::threads,
                     Tiling::bytes, context->stream, arguments),
          "attention_backward_kv");
  return NT_OK;
}

}  // namespace

int32_t attention_backward_kv(nt_context *context, const AttentionBackward &call) {
  if (call.size.head_dim == 64) return launch_kv<KvTiling<64, 2, 4, 32, 2>>(context, call);
  if (call.size.head_dim == 96) return launch_kv<KvTiling<96, 1, 8, 64, 1>>(context, call);
  typedef KvTiling<128, 1, 8, 64, 1> Wide;
  if (context->shared_limit >= Wide::bytes) return launch_kv<Wide>(context, call);
  return launch_kv<KvTiling<128, 1, 8, 32, 1>>(context, call);
}

}  // namespace nt
