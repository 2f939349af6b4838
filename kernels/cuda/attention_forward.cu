// Causal attention on tensor cores (FlashAttention-2, arXiv 2307.08691, algorithm 1), bf16, head_dim 64, 80, 96, 100,
// 128 or 256:
//   s = q·kᵀ,  p = exp(scale · s − m),  o = Σ p·v / Σ p,  lse = m + log Σ p.
// A block of 4 warps owns a tile of queries of one sample and head and walks the tiles of keys from the diagonal down.
#include "attention.h"

namespace nt {
namespace {

constexpr int kThreads = 128;

// Blocks that share a multiprocessor, which sets the registers a thread may have. Three of 168 registers at
// head_dim 64, where softmax takes as long as the products and more warps hide more of it; nvcc for sm_100 and later,
// and the kernel with a window would spill.
constexpr int blocks(int head_dim, bool general) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  return 2;
#else
  return head_dim == 64 && !general ? 3 : 2;
#endif
}

struct Arguments {
  bf16 *o;
  float *lse;  // or null
  const bf16 *q, *k, *v;
  int ldo, ldq, ldkv;
  int64_t kv_step;  // elements from a key/value head to the next
  const SampleTile *tiles;
  int64_t tokens;
  int heads, group, window;
  bool each_alone;  // a query's bits must not depend on which queries share its tile
  float scale_log2;  // scale · log₂ e: p = 2^(scale_log2 · s − m), one FMA and one MUFU
};

// What a warp keeps in registers over the tiles of keys. Its rows come in groups of 16, as mma has them: lane l holds
// rows l / 4 and l / 4 + 8 of each group, and of every 8 columns the two from 2·(l mod 4) on.
template <int head_dim, int groups>
struct State {
  float out[groups][head_dim / 8][4];  // Σ p·v
  // What p is relative to, times log₂ e: each row's greatest score, or up to kLag less.
  float top[groups][2];
  float total[groups][2];  // Σ p over this lane's columns
};

// The reference may lag behind the greatest score by this much, p staying below 2⁸, before the sums are scaled down:
// after the first tiles that is rare, and head_dim / 2 multiplications a lane are saved.
constexpr float kLag = 8.0f;

// A score that is relative to this is nothing, and −∞ − this is still −∞.
constexpr float kNoScore = -3e38f;

// s = q·kᵀ for the warp's rows and a tile of keys.
template <int head_dim, int rows, int keys, int groups>
__device__ __forceinline__ void score(float (&s)[groups][keys / 8][4], const unsigned char *queries, int first_row,
                                      const unsigned char *key_tile, int lane) {
  typedef Tile<head_dim, rows> Queries;
  typedef Tile<head_dim, keys> Keys;
  const int down = Queries::lane_down(lane), along = Keys::lane_along(lane);
  queries += first_row * Queries::kRowBytes;
  NT_UNROLL
  for (int group = 0; group < groups; group++) NT_UNROLL
    for (int n = 0; n < keys / 8; n++) NT_UNROLL
      for (int i = 0; i < 4; i++) s[group][n][i] = 0.0f;
  NT_UNROLL
  for (int k = 0; k < head_dim / 16; k++) {
    uint32_t a[groups][4];
    NT_UNROLL
    for (int group = 0; group < groups; group++) load_matrix(a[group], queries + Queries::block(down, 16 * group, k));
    NT_UNROLL
    for (int n = 0; n < keys / 16; n++) {
      uint32_t b[4];
      load_matrix(b, key_tile + Keys::block(along, 16 * n, k));
      NT_UNROLL
      for (int group = 0; group < groups; group++) {
        mma(s[group][2 * n], a[group], b[0], b[1]);
        mma(s[group][2 * n + 1], a[group], b[2], b[3]);
      }
    }
  }
}

// Scores of keys that a query does not see become −∞: keys after it, and with `general` keys `window` or more before it.
// `behind`: the position of the warp's first row − that of the tile's first key.
template <bool general, int keys, int groups>
__device__ __forceinline__ void mask(float (&s)[groups][keys / 8][4], int behind, int window, int lane) {
  NT_UNROLL
  for (int group = 0; group < groups; group++) NT_UNROLL
    for (int i = 0; i < 4; i++) {
      const int last = behind + 16 * group + lane / 4 + i / 2 * 8 - lane % 4 * 2;  // the lane's columns start at 0 then
      NT_UNROLL
      for (int n = 0; n < keys / 8; n++) {
        const int column = n * 8 + i % 2;
        if (general ? unsigned(last - column) >= unsigned(window) : column > last) s[group][n][i] = -INFINITY;
      }
    }
}

// Scores become p, and the state's references and totals follow: of all rows of a warp where one has to, or with
// `each_alone` of that one alone.
template <int head_dim, int keys, int groups>
__device__ __forceinline__ void softmax(State<head_dim, groups> &state, float (&s)[groups][keys / 8][4], float scale,
                                        bool each_alone) {
  float greatest[groups][2];
  bool grows = false;
  NT_UNROLL
  for (int group = 0; group < groups; group++) NT_UNROLL
    for (int half = 0; half < 2; half++) {
      float most = s[group][0][2 * half];
      NT_UNROLL
      for (int n = 0; n < keys / 8; n++)
        most = fmaxf(most, fmaxf(s[group][n][2 * half], s[group][n][2 * half + 1]));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
      greatest[group][half] = most * scale;
      grows = grows || greatest[group][half] > state.top[group][half] + kLag;
    }
  if (__any_sync(kAllLanes, grows)) {
    NT_UNROLL
    for (int group = 0; group < groups; group++) NT_UNROLL
      for (int half = 0; half < 2; half++) {
        const bool stays = each_alone && greatest[group][half] <= state.top[group][half] + kLag;
        const float top = stays ? state.top[group][half] : fmaxf(state.top[group][half], greatest[group][half]);
        const float shrink = exp2_fast(state.top[group][half] - top);
        state.top[group][half] = top;
        state.total[group][half] *= shrink;
        NT_UNROLL
        for (int n = 0; n < head_dim / 8; n++) {
          state.out[group][n][2 * half] *= shrink;
          state.out[group][n][2 * half + 1] *= shrink;
        }
      }
  }
  NT_UNROLL
  for (int group = 0; group < groups; group++) NT_UNROLL
    for (int half = 0; half < 2; half++) NT_UNROLL
      for (int n = 0; n < keys / 8; n++) NT_UNROLL
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          const float p = exp2_fast(fmaf(s[group][n][i], scale, -state.top[group][half]));
          s[group][n][i] = p;
          state.total[group][half] += p;
        }
}

// out += p·v. The accumulators of two neighboring tiles of 8 keys are the A operand of these 16 keys as they are.
template <int head_dim, int keys, int groups>
__device__ __forceinline__ void weigh(State<head_dim, groups> &state, const float (&p)[groups][keys / 8][4],
                                      const unsigned char *values, int lane) {
  typedef Tile<head_dim, keys> Values;
  const int down = Values::lane_down(lane);
  NT_UNROLL
  for (int k = 0; k < keys / 16; k++) {
    uint32_t a[groups][4];
    NT_UNROLL
    for (int group = 0; group < groups; group++) NT_UNROLL
      for (int i = 0; i < 4; i++) {
        const float *pair = &p[group][2 * k + i / 2][i % 2 * 2];
        a[group][i] = pack_bf16(pair[0], pair[1]);
      }
    NT_UNROLL
    for (int n = 0; n < head_dim / 16; n++) {
      uint32_t b[4];
      load_matrix_transposed(b, values + Values::block(down, 16 * k, n));
      NT_UNROLL
      for (int group = 0; group < groups; group++) {
        mma(state.out[group][2 * n], a[group], b[0], b[1]);
        mma(state.out[group][2 * n + 1], a[group], b[2], b[3]);
      }
    }
  }
}

// Shared memory: queries [rows], keys [keys], values [keys], each a Tile. Values of a tile arrive while its scores are
// computed, the next tile's keys during softmax and p·v. Warps of 32 rows (rows = 128) read each fragment of keys and
// values once for two mma: 16 rows would ask shared memory for all it can give at half of Hopper's rate.
// A query is read once, keys and values once for each tile of queries, mostly from L2; o and lse are written once.
// `general`: with a window, or over a cache, whose queries may begin within a tile of keys: a kernel of its own, as the
// one for whole samples has no register left.
template <int head_dim, int rows, int keys, bool general>
__global__ void __launch_bounds__(kThreads, blocks(head_dim, general)) attention_forward_kernel(const Arguments a) {
  static_assert(rows % keys == 0, "tiles of keys before a whole sample's query tile are before all of its rows");
  constexpr int warp_rows = rows / (kThreads / 32), groups = warp_rows / 16;
  typedef Tile<head_dim, rows> Queries;
  NT_DYNAMIC_SHARED(shared);
  unsigned char *const queries = shared, *const key_tile = queries + Queries::kBytes,
                       *const values = key_tile + Tile<head_dim, keys>::kBytes;

  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warp_row = warp * warp_rows;
  const int head = int(blockIdx.x % unsigned(a.heads));
  const SampleTile tile = a.tiles[blockIdx.x / unsigned(a.heads)];
  const int valid = min(rows, tile.length - tile.first);
  const int ldq = general ? a.ldq : a.ldkv;  // they are equal for whole samples
  const int64_t token = tile.token;
  const int64_t first_row = general ? int64_t(tile.keys) * a.ldkv + head / a.group * a.kv_step
                                    : token * a.ldkv + int64_t(head / a.group) * kHeadColumns<head_dim>;
  const bf16 *k = a.k + first_row, *v = a.v + first_row;

  State<head_dim, groups> state;
  NT_UNROLL
  for (int group = 0; group < groups; group++) {
    NT_UNROLL
    for (int n = 0; n < head_dim / 8; n++) NT_UNROLL
      for (int i = 0; i < 4; i++) state.out[group][n][i] = 0.0f;
    NT_UNROLL
    for (int half = 0; half < 2; half++) {
      state.top[group][half] = kNoScore;
      state.total[group][half] = 0.0f;
    }
  }

  // From the last tile that a valid query sees down to the first.
  int first_key = (tile.first + valid - 1) / keys * keys;
  const int last_tile = general ? max(0, tile.first - a.window + 1) / keys * keys : 0;
  const bf16 *const q = a.q + (token + tile.first) * ldq + int64_t(head) * kHeadColumns<head_dim>;
  load_tile<head_dim, rows, kThreads, false>(queries, q, ldq, valid);
  load_tile<head_dim, keys, kThreads, false>(key_tile, k + int64_t(first_key) * a.ldkv, a.ldkv,
                                             tile.length - first_key);
  copy_async_commit();

  // Tiles on the diagonal, some of whose keys some rows do not see. A warp whose rows are all earlier than the tile has
  // nothing to do but to keep the barriers.
  do {
    const bool sees = first_key < tile.first + warp_row + warp_rows;
    copy_async_wait<0>();
    __syncthreads();  // the keys have come, and no warp reads the last tile's values any longer
    load_tile<head_dim, keys, kThreads, false>(values, v + int64_t(first_key) * a.ldkv, a.ldkv,
                                               tile.length - first_key);
    copy_async_commit();
    float s[groups][keys / 8][4];
    if (sees) {
      score<head_dim, rows, keys, groups>(s, queries, warp_row, key_tile, lane);
      mask<general, keys, groups>(s, tile.first + warp_row - first_key, a.window, lane);
    }
    copy_async_wait<0>();
    __syncthreads();  // the values have come, and no warp reads the keys any longer
    if (first_key > last_tile)
      load_tile<head_dim, keys, kThreads, true>(key_tile, k + int64_t(first_key - keys) * a.ldkv, a.ldkv, keys);
    copy_async_commit();
    if (sees) {
      softmax<head_dim, keys, groups>(state, s, a.scale_log2, general && a.each_alone);
      weigh<head_dim, keys, groups>(state, s, values, lane);
    }
    first_key -= keys;
  } while (general ? first_key >= last_tile && first_key + keys - 1 > tile.first
                   : rows > keys && first_key >= tile.first);

  // Tiles that all queries see in full, but for the window's edge.
  for (; first_key >= last_tile; first_key -= keys) {
    copy_async_wait<0>();
    __syncthreads();
    load_tile<head_dim, keys, kThreads, true>(values, v + int64_t(first_key) * a.ldkv, a.ldkv, keys);
    copy_async_commit();
    float s[groups][keys / 8][4];
    score<head_dim, rows, keys, groups>(s, queries, warp_row, key_tile, lane);
    if (general && first_key + a.window < tile.first + rows)
      mask<general, keys, groups>(s, tile.first + warp_row - first_key, a.window, lane);
    copy_async_wait<0>();
    __syncthreads();
    if (first_key > last_tile)
      load_tile<head_dim, keys, kThreads, true>(key_tile, k + int64_t(first_key - keys) * a.ldkv, a.ldkv, keys);
    copy_async_commit();
    softmax<head_dim, keys, groups>(state, s, a.scale_log2, general && a.each_alone);
    weigh<head_dim, keys, groups>(state, s, values, lane);
  }

  // o and lse; o through the warp's own rows of the query tile, so that 16 bytes a lane go out.
  NT_UNROLL
  for (int group = 0; group < groups; group++) NT_UNROLL
    for (int half = 0; half < 2; half++) {
      float total = state.total[group][half];
      total += __shfl_xor_sync(kAllLanes, total, 1);
      total += __shfl_xor_sync(kAllLanes, total, 2);
      const float weight = 1.0f / total;
      const int row = warp_row + 16 * group + 8 * half + lane / 4;
      if (a.lse != nullptr && lane % 4 == 0 && row < valid)
        a.lse[head * a.tokens + token + tile.first + row] = (state.top[group][half] + log2f(total)) * kLn2;
      NT_UNROLL
      for (int n = 0; n < head_dim / 8; n++) {
        const float *pair = &state.out[group][n][2 * half];
        *reinterpret_cast<uint32_t *>(queries + Queries::offset(row, n) + lane % 4 * 4) =
            pack_bf16(pair[0] * weight, pair[1] * weight);
      }
    }
  __syncwarp();
  constexpr int lanes = Queries::kChunks;  // that store one row of a panel
  bf16 *const out = a.o + (token + tile.first) * a.ldo + int64_t(head) * kHeadColumns<head_dim>;
  NT_UNROLL
  for (int r = 0; r < warp_rows; r += 32 / lanes) {
    const int row = warp_row + r + lane / lanes;
    NT_UNROLL
    for (int panel = 0; panel < Queries::kPanels; panel++) {
      const int chunk = panel * lanes + lane % lanes;
      if (row < valid && Queries::has(panel, lane % lanes))
        store_chunk<head_dim>(out + row * a.ldo + chunk * 8, queries + Queries::offset(row, chunk), chunk * 8);
    }
  }
}

template <int head_dim, int rows, int keys, bool general>
int32_t forward(nt_context *context, const AttentionForward &call) {
  const AttentionSize &size = call.size;
  TileTable table;
  if (int32_t status = tile_table(context, size, rows, TileOrder::kQueries, &table)) return status;
  const Arguments arguments = {static_cast<bf16 *>(call.o),
                               call.lse,
                               static_cast<const bf16 *>(call.q),
                               static_cast<const bf16 *>(call.k),
                               static_cast<const bf16 *>(call.v),
                               int(call.ldo),
                               int(call.ldq),
                               int(call.ldkv),
                               call.kv_step(),
                               table.tiles,
                               size.tokens,
                               int(size.heads),
                               int(size.group),
                               int(size.window),
                               size.slots != nullptr,
                               size.scale * kLog2E};
  constexpr size_t shared = Tile<head_dim, rows>::kBytes + 2 * Tile<head_dim, keys>::kBytes;
  NT_CUDA(launch(attention_forward_kernel<head_dim, rows, keys, general>, dim3(unsigned(table.count * size.heads)),
                 dim3(kThreads), shared, context->stream, arguments),
          "attention_forward");
  return NT_OK;
}

bool is_aligned(const AttentionForward &call) {
  const int64_t head_dim = call.size.head_dim;
  return rows_aligned(call.q, call.ldq, head_dim) && rows_aligned(call.k, call.ldkv, head_dim) &&
         rows_aligned(call.v, call.ldkv, head_dim) && rows_aligned(call.o, call.ldo, head_dim);
}

int32_t forward(nt_context *context, const AttentionForward &call) {
  const AttentionSize &size = call.size;
  if (!has_tiles(call.dtype, size.head_dim) || !is_aligned(call)) return attention_forward_plain(context, call);
  if (size.window != kNoWindow || size.slots != nullptr) {
    switch (size.head_dim) {
      case 64: return forward<64, 128, 64, true>(context, call);
      case 80: return forward<80, 64, 64, true>(context, call);
      case 96: return forward<96, 64, 64, true>(context, call);  // 128 rows would spill, here and below
      case 100: return forward<112, 64, 64, true>(context, call);
      case 256: return forward<256, 64, 64, true>(context, call);
      default: return forward<128, 64, 64, true>(context, call);
    }
  }
  // Cards with 99 KB (sm_86, 89, 120) have half the tensor cores an SM and hold two blocks of 48 KB.
  const bool large = context->shared_limit >= 160 * 1024;
  switch (size.head_dim) {
    case 64: return forward<64, 128, 64, false>(context, call);
    case 80:
      return large ? forward<80, 128, 64, false>(context, call) : forward<80, 64, 64, false>(context, call);
    case 100: return forward<112, 64, 64, false>(context, call);
    case 256: return forward<256, 64, 64, false>(context, call);  // 96 KB on any card
    case 96:
      return large ? forward<96, 128, 64, false>(context, call) : forward<96, 64, 64, false>(context, call);
    default:
      return large ? forward<128, 128, 64, false>(context, call) : forward<128, 64, 64, false>(context, call);
  }
}

template <class T>
int32_t attention_forward(nt_context *context, const AttentionSize &size, T *o, int64_t ldo, float *lse, const T *q,
                          const T *k, const T *v, int64_t ldqkv) {
  return forward(context, {kDtype<T>, size, o, ldo, lse, q, ldqkv, k, v, ldqkv});
}

template <class T>
int32_t attention_cached(nt_context *context, const AttentionSize &size, T *o, int64_t ldo, const T *q, int64_t ldq,
                         const T *k_cache, const T *v_cache) {
  return forward(context, {kDtype<T>, size, o, ldo, nullptr, q, ldq, k_cache, v_cache, size.head_dim});
}

}  // namespace
}  // namespace nt

#include "../entry/attention_cached.h"
#include "../entry/attention_forward.h"
