// The first pass of the attention backward: dQ, by tiles of queries, and D = Σ dO∘O of their rows. A block owns a tile
// of queries of one head and walks over the key tiles up to its own positions, each of which makes three products:
//   S = Q·Kᵀ,  dP = dO·Vᵀ,  dQ += dS·K,
// the first two once more in the second pass: that is the price of sums that stay in registers, in the order of the
// walk, without atomics. dS leaves the second product in the lanes in which the third wants its A operand.
//
// Shared memory: Q, dO [rows] (Tile's layout) and of each row two floats, −lse · log₂e and −D; then twice K, V
// [columns]. While one tile is multiplied, the next arrives in the other place; one barrier a tile. Rows past the
// sample's end are zeros and have lse = ∞, so P = 0.
//
//               queries a block × keys a tile   warps × queries   registers of sums   shared memory
// head_dim 256          128 × 32                    8 × 16            128 + 32        193 KB
//                       128 × 16                    8 × 16            128 + 16        161 KB, on cards with 163 KB
//                        64 × 16                    4 × 16            128 + 16         97 KB, on cards with 99 KB
//          128          128 × 32                    4 × 32            128 + 64         97 KB, two blocks
//                       256 × 32                    8 × 32            128 + 64        162 KB, where two do not fit
//                       128 × 32                    8 × 16             64 + 32         97 KB, on cards with 99 KB
//          100          128 × 32                    8 × 16             56 + 32         97 KB
//       96, 80          128 × 32                    4 × 32             96 + 64         73 KB, two blocks
//                       128 × 64                    8 × 16             48 + 64         97 KB, on cards with 99 KB
//           64          128 × 32                    4 × 32             64 + 64         49 KB, two blocks
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
  static constexpr int own = 2 * Own::kBytes + rows * int(sizeof(float2));
  static constexpr int bytes = own + 4 * Other::kBytes;
  static_assert(rows % Columns == 0, "tiles of keys before the block's first row are before all of its rows");
};

// The warp's queries as operands, where they are held in registers.
template <class Tiling>
struct Held {
  static constexpr int M = Tiling::m, K = Tiling::held ? Tiling::head_dim / 16 : 1;
  uint32_t q[K][M][4], dout[K][M][4];
};

// s = Q·Kᵀ, dp = dO·Vᵀ
template <class Tiling, int N>
__device__ __forceinline__ void scores(float (&s)[Tiling::m][N][4], float (&dp)[Tiling::m][N][4],
                                       const Held<Tiling> &held, const unsigned char *queries,
                                       const unsigned char *keys, const Lane &lane) {
  typedef typename Tiling::Own Own;
  typedef typename Tiling::Other Other;
  const unsigned char *values = keys + Other::kBytes;
  if constexpr (Tiling::held) {
    NT_UNROLL
    for (int k = 0; k < held.K; k++) multiply_rows<Other>(s, held.q[k], keys, k, lane.along);
    NT_UNROLL
    for (int k = 0; k < held.K; k++) multiply_rows<Other>(dp, held.dout[k], values, k, lane.along);
  } else {
    const unsigned char *own = queries + lane.row * Own::kRowBytes;
    multiply_rows<Own, Other, Tiling::head_dim>(s, own, keys, lane);
    multiply_rows<Own, Other, Tiling::head_dim>(dp, own + Own::kBytes, values, lane);
  }
}

// One key tile for the warp's queries. `first`: the column whose position is that of the block's first query; with
// `masked`, query r of the block sees the `window` columns up to first + r only, else all.
template <class Tiling, bool masked>
__device__ __forceinline__ void q_step(float (&dq)[Tiling::m][Tiling::head_dim / 8][4], const Held<Tiling> &held,
                                       const unsigned char *queries, const unsigned char *keys, float factor,
                                       int first, int window) {
  typedef typename Tiling::Own Own;
  typedef typename Tiling::Other Other;
  constexpr int head_dim = Tiling::head_dim, M = Tiling::m, N = Tiling::columns / 8;
  const Lane lane = this_lane<Own, M>();
  // No query of the warp sees the tile.
  if (masked && (first + lane.row + 16 * M <= 0 || first + lane.row - window + 1 >= Tiling::columns)) return;
  // This lane's column and row cancel all but the constants below.
  const int diagonal = first + lane.row + (lane.index >> 2) - 2 * (lane.index & 3);

  float p[M][N][4] = {}, ds[M][N][4] = {};
  scores<Tiling>(p, ds, held, queries, keys, lane);
  const float2 *rows = reinterpret_cast<const float2 *>(queries + 2 * Own::kBytes) + lane.row + (lane.index >> 2);
  NT_UNROLL
  for (int m = 0; m < M; m++) {
    NT_UNROLL
    for (int half = 0; half < 2; half++) {
      const float2 row = rows[16 * m + 8 * half];  // −lse · log₂e, −D
      NT_UNROLL
      for (int n = 0; n < N; n++) {
        NT_UNROLL
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          p[m][n][i] = exp2_fast(fmaf(p[m][n][i], factor, row.x));
          ds[m][n][i] = p[m][n][i] * (ds[m][n][i] + row.y);
          const int behind = diagonal - (8 * n + (i & 1) - 16 * m - 8 * half);  // the query's position − the key's
          if (masked && unsigned(behind) >= unsigned(window)) ds[m][n][i] = 0.0f;
        }
      }
    }
  }
  NT_UNROLL
  for (int k = 0; k < N / 2; k++) {
    uint32_t operand[M][4];
    NT_UNROLL
    for (int m = 0; m < M; m++) {
      pack_half(operand, m, 0, ds[m][2 * k]);
      pack_half(operand, m, 1, ds[m][2 * k + 1]);
    }
    multiply_columns<Other, head_dim>(dq, operand, keys, 16 * k, lane.down);
  }
}

// Writes −lse · log₂e and −D of the block's rows to shared memory, and D to a.delta for the second pass. A thread takes
// the chunks of dO that it has copied itself, so that its own wait for them is enough, and the same chunks of O, which
// nobody reads again; `first` is the token of the block's first row, `valid` its rows that exist.
template <class Tiling>
__device__ __forceinline__ void find_statistics(float2 *statistics, const unsigned char *douts,
                                                const BackwardArguments &a, int head, int first, int valid) {
  typedef typename Tiling::Own T;
  constexpr int head_dim = Tiling::head_dim, rows = Tiling::rows, lanes = T::kChunks, step = Tiling::threads / lanes;
  const int row = int(threadIdx.x) / lanes, chunk = int(threadIdx.x) % lanes;
  Pack<bf16> o[rows / step][T::kPanels] = {};
  NT_UNROLL
  for (int i = 0; i < rows / step; i++) {
    const bf16 *from = a.o + int64_t(first + row + i * step) * a.ldo + head * kHeadColumns<head_dim> + 8 * chunk;
    NT_UNROLL
    for (int panel = 0; panel < T::kPanels; panel++)
      if (row + i * step < valid && T::has(panel, chunk))
        o[i][panel] = load_chunk_once<head_dim>(from + panel * T::kPanelColumns, panel * T::kPanelColumns + 8 * chunk);
  }
  copy_async_wait<1>();
  NT_UNROLL
  for (int i = 0; i < rows / step; i++) {
    float sum = 0.0f;
    NT_UNROLL
    for (int panel = 0; panel < T::kPanels; panel++) {
      if (!T::has(panel, chunk)) continue;
      const Pack<bf16> x = load_pack(reinterpret_cast<const bf16 *>(
          douts + T::offset(row, chunk) + (panel * rows + i * step) * T::kRowBytes));
      NT_UNROLL
      for (int j = 0; j < 8; j++) sum = fmaf(to_float(x.x[j]), to_float(o[i][panel].x[j]), sum);
    }
    NT_UNROLL
    for (int distance = lanes / 2; distance > 0; distance >>= 1) sum += __shfl_xor_sync(kAllLanes, sum, distance);
    if (chunk > 0) continue;
    const bool exists = row + i * step < valid;
    const int64_t at = head * a.tokens + first + row + i * step;
    statistics[row + i * step] = make_float2(exists ? -kLog2E * a.lse[at] : -INFINITY, -sum);
    if (exists) a.delta[at] = sum;
  }
}

template <class Tiling>
__global__ void __launch_bounds__(Tiling::threads, Tiling::blocks)
    attention_backward_q_kernel(const BackwardArguments a) {
  NT_DYNAMIC_SHARED(shared);
  typedef typename Tiling::Own Own;
  typedef typename Tiling::Other Other;
  constexpr int head_dim = Tiling::head_dim, columns = Tiling::columns, threads = Tiling::threads, M = Tiling::m;
  unsigned char *queries = shared, *keys = queries + Tiling::own, *next_keys = keys + 2 * Other::kBytes;

  const Place place = tile_place(a.tiles, blockIdx.z);
  const int head = int(blockIdx.y) * a.group + int(blockIdx.x);
  const int end = min(place.begin + Tiling::rows, place.end);  // of the keys that are seen
  load_tiles<Own, Tiling::rows, threads>(queries, a.q, a.ld, queries + Own::kBytes, a.dout, a.ldo, place.token,
                                         place.begin, place.end, head * kHeadColumns<head_dim>);
  copy_async_commit();
  auto load = [&](unsigned char *to, int at) {
    const int kv_head = computed_here(blockIdx.y);
    load_tiles<Other, columns, threads>(to, a.k, a.ld, to + Other::kBytes, a.v, a.ld, place.token, at, end,
                                        kv_head * kHeadColumns<head_dim>);
    copy_async_commit();
  };
  int at = max(0, place.begin - a.window + 1) / columns * columns;
  load(keys, at);
  find_statistics<Tiling>(reinterpret_cast<float2 *>(queries + 2 * Own::kBytes), queries + Own::kBytes, a, head,
                          place.token + place.begin, end - place.begin);
  Held<Tiling> held;
  if constexpr (Tiling::held) {
    __syncthreads();  // all rows are there
    const Lane lane = this_lane<Own, M>();
    NT_UNROLL
    for (int k = 0; k < held.K; k++) {
      load_operand<Own>(held.q[k], queries + lane.row * Own::kRowBytes, k, lane.down);
      load_operand<Own>(held.dout[k], queries + lane.row * Own::kRowBytes + Own::kBytes, k, lane.down);
    }
  }

  float dq[M][head_dim / 8][4] = {};
  auto step = [&](auto masked) {
    copy_async_wait<0>();
    __syncthreads();  // this tile is there, and all are done with the one before
    if (at + columns < end) load(next_keys, at + columns);
    q_step<Tiling, masked.value>(dq, held, queries, keys, a.factor, place.begin - at, a.window);
    unsigned char *const done = keys;
    keys = next_keys;
    next_keys = done;
    at += columns;
  };
  while (at < end) {
    if (at >= place.begin || at + a.window < place.begin + Tiling::rows)
      step(Flag<true>());  // on the diagonal or at the edge of the window
    else
      step(Flag<false>());
  }

  const Place out = tile_place(a.tiles, blockIdx.z);
  turn_back<Own, head_dim>(dq, a.rope, out.token + out.begin, out.end - out.begin);
  store_rows<Own, head_dim>(a.dq + int64_t(out.token + out.begin) * a.ldd + head * kHeadColumns<head_dim>, a.ldd,
                            out.end - out.begin, dq, a.scale, queries);
}

template <class Tiling>
int32_t launch_q(nt_context *context, const AttentionBackward &call) {
  return launch_tiles<Tiling>(context, attention_backward_q_kernel<Tiling>, call, TileOrder::kQueries, call.size.group,
                              call.size.kv_heads, "attention_backward_q");
}

}  // namespace

int32_t attention_backward_q(nt_context *context, const AttentionBackward &call) {
  const int limit = context->shared_limit;
  if (call.size.head_dim == 64) return launch_q<QTiling<64, 2, 4, 32, 2>>(context, call);
  if (call.size.head_dim == 80) {
    typedef QTiling<80, 2, 4, 32, 2> Two;
    return limit >= 2 * Two::bytes ? launch_q<Two>(context, call) : launch_q<QTiling<80, 1, 8, 64, 1>>(context, call);
  }
  if (call.size.head_dim == 96) {
    typedef QTiling<96, 2, 4, 32, 2> Two;
    return limit >= 2 * Two::bytes ? launch_q<Two>(context, call) : launch_q<QTiling<96, 1, 8, 64, 1>>(context, call);
  }
  if (call.size.head_dim == 100) return launch_q<QTiling<112, 1, 8, 32, 1>>(context, call);
  if (call.size.head_dim == 256) {
    typedef QTiling<256, 1, 8, 32, 1> Wide;
    typedef QTiling<256, 1, 8, 16, 1> Middle;
    if (limit >= Wide::bytes) return launch_q<Wide>(context, call);
    return limit >= Middle::bytes ? launch_q<Middle>(context, call) : launch_q<QTiling<256, 1, 4, 16, 1>>(context, call);
  }
  typedef QTiling<128, 2, 4, 32, 2> Two;
  typedef QTiling<128, 2, 8, 32, 1> Wide;
  if (limit >= 2 * Two::bytes) return launch_q<Two>(context, call);
  return limit >= Wide::bytes ? launch_q<Wide>(context, call) : launch_q<QTiling<128, 1, 8, 32, 1>>(context, call);
}

}  // namespace nt
