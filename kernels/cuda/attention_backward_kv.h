// The walk of the second pass of the attention backward, dK and dV by tiles of keys (FlashAttention-2, arXiv 2307.08691,
// with the products transposed). A block owns a tile of keys and values of one key/value head and walks over the query
// heads of its group and, for each, over the query tiles from its own positions on. A tile makes four products:
//   Sᵀ = K·Qᵀ,  dPᵀ = V·dOᵀ,  dV += Pᵀ·dO,  dK += dSᵀ·Q.
// Being transposed, Pᵀ and dSᵀ leave the first two in the lanes in which the last two want their A operand, so neither
// passes through shared memory as one. Sums over tiles and heads stay in registers, in the order of the walk: no
// atomics, the same bits every time.
//
// Shared memory: K, V [rows], then twice Q, dO [columns] (Tile's layout) and two rows of floats, −lse · log₂e and −D of
// the columns; then what the warps exchange. While one tile is multiplied, the next arrives in the other place; one
// barrier a tile. Rows past the sample's end are zeros, and queries past it have lse = ∞, which makes their P 0.
//
// Who holds which sums is the tiling's: a class on top of KvTile with
//   Sums               what a warp holds, 0 at first
//   step<masked>(…)    adds a query tile to them
//   store(…)           writes them
#pragma once
#include "attention_backward.h"

namespace nt {

template <int HeadDim, int Rows, int Warps, int Columns, int Blocks, int Exchanged = 0>
struct KvTile {
  static constexpr int head_dim = HeadDim, rows = Rows, columns = Columns, blocks = Blocks, threads = 32 * Warps;
  typedef Tile<HeadDim, Rows> Own;
  typedef Tile<HeadDim, Columns> Other;
  static constexpr int statistics = 2 * Columns;
  static constexpr int stage = 2 * Other::kBytes + statistics * int(sizeof(float));
  static constexpr int before_exchange = 2 * Own::kBytes + 2 * stage, bytes = before_exchange + Exchanged;
  static_assert(rows % Columns == 0, "tiles of queries behind the block's last row are behind all of its rows");
  static_assert(statistics <= threads, "a thread loads one statistic of a tile");
};

// A tile of queries as a step sees it. `first`: the column whose position is that of the block's first key; where a step
// is masked, the `window` columns from first + r on see key r of the block, else all.
struct QueryTile {
  const unsigned char *queries;  // dO and the statistics follow
  int first, window;
};

template <class Tiling>
__global__ void __launch_bounds__(Tiling::threads, Tiling::blocks)
    attention_backward_kv_kernel(const BackwardArguments a) {
  NT_DYNAMIC_SHARED(shared);
  typedef typename Tiling::Own Own;
  typedef typename Tiling::Other Other;
  constexpr int head_dim = Tiling::head_dim, columns = Tiling::columns, threads = Tiling::threads;
  unsigned char *keys = shared, *values = keys + Own::kBytes;
  unsigned char *queries = values + Own::kBytes, *next_queries = queries + Tiling::stage;

  const Place place = tile_place(a.tiles, blockIdx.z);
  load_tiles<Own, Tiling::rows, threads>(keys, a.k, a.ld, values, a.v, a.ld, place.token, place.begin, place.end,
                                         int(blockIdx.x) * kHeadColumns<head_dim>);
  // Query tiles of a head start at `begin`, so that those of the diagonal are the first rows / columns.
  auto load = [&](unsigned char *to, int head, int at) {
    load_tiles<Other, columns, threads>(to, a.q, a.ld, to + Other::kBytes, a.dout, a.ldo, place.token, at, place.end,
                                        head * kHeadColumns<head_dim>);
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

  typename Tiling::Sums sums = {};
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
    Tiling::template step<masked.value>(sums, keys, {queries, first, a.window}, a.factor);
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
  Tiling::store(sums, a, tile_place(a.tiles, blockIdx.z), keys);
}

template <class Tiling>
int32_t launch_kv(nt_context *context, const AttentionBackward &call) {
  return launch_tiles<Tiling>(context, attention_backward_kv_kernel<Tiling>, call, TileOrder::kKeys,
                              call.size.kv_heads, 1, "attention_backward_kv");
}

// At head_dim 256.
int32_t attention_backward_kv_wide(nt_context *context, const AttentionBackward &call);

}  // namespace nt
