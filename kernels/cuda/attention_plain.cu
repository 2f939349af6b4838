// Causal attention without tensor cores, any head_dim up to 256, f32 or bf16, any alignment: what the fast kernels are
// checked against and what they leave to it. With p = exp(scale · q·kᵀ − lse), delta = Σ do∘o:
//   o = Σ p·v,  dv = pᵀ·do,  ds = p ∘ (do·vᵀ − delta),  dq = scale · ds·k,  dk = scale · dsᵀ·q.
//
// A block of 4 warps owns 16 rows (of queries, or of keys for dk and dv) and walks the other side in tiles of 32 rows.
// A warp owns 4 of the rows. For scores a lane is a row of the tile; for sums a lane is every 32nd column.
// Shared memory, in float32, with `width` = head_dim rounded up to 32:
//   rows[4 warps][width][4]: the block's rows, so that 16 bytes hold a column of a warp's 4 rows, read by all lanes
//   tile[32][width + 1]: the odd row distance keeps lanes that read a column, and lanes that read a row, in all banks
//   weights[4 warps][32][4]: p or ds of the warp's rows
#include "attention.h"

namespace nt {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps, kWarpRows = 4, kRows = kWarps * kWarpRows, kTile = 32;
constexpr int kColumns = 8;  // of each lane, for head_dim up to 256

int width_of(int64_t head_dim) { return int(ceil_div(head_dim, 32) * 32); }

// Bytes for `sides` sets of the block's rows, a tile and the weights.
size_t shared_bytes(int64_t head_dim, int sides) {
  const size_t width = size_t(width_of(head_dim));
  return (sides * kRows * width + kTile * (width + 1) + kWarps * kTile * kWarpRows) * sizeof(float);
}

struct Shared {
  float4 *rows;     // this warp's [width], one for each side, kRows / 4 · width apart
  float *tile;      // [kTile][width + 1]
  float4 *weights;  // this warp's [kTile]
  int width, head_dim;
};

__device__ __forceinline__ Shared place(unsigned char *memory, int head_dim, int width, int sides) {
  const int warp = threadIdx.x >> 5;
  float4 *const rows = reinterpret_cast<float4 *>(memory);
  float4 *const weights = rows + sides * kWarps * width;
  float *const tile = reinterpret_cast<float *>(weights + kWarps * kTile);
  return {rows + warp * width, tile, weights + warp * kTile, width, head_dim};
}

// The block's rows of one side; those from `valid` on are 0.
template <class T>
__device__ __forceinline__ void load_rows(const Shared &shared, int side, const T *source, int64_t ld, int valid) {
  float4 *const rows = shared.rows + (side * kWarps - int(threadIdx.x >> 5)) * shared.width;
  for (int i = threadIdx.x; i < kRows * shared.head_dim; i += kThreads) {
    const int row = i / shared.head_dim, column = i % shared.head_dim;
    reinterpret_cast<float *>(rows + row / kWarpRows * shared.width + column)[row % kWarpRows] =
        row < valid ? to_float(source[row * ld + column]) : 0.0f;
  }
}

// A tile of the other side, in place of the last one, with zeros beyond `valid` rows and head_dim columns.
template <class T>
__device__ __forceinline__ void load_tile(const Shared &shared, const T *source, int64_t ld, int valid) {
  __syncthreads();
  for (int row = threadIdx.x >> 5; row < kTile; row += kWarps)
    for (int column = threadIdx.x & 31; column < shared.width; column += 32)
      shared.tile[row * (shared.width + 1) + column] =
          row < valid && column < shared.head_dim ? to_float(source[row * ld + column]) : 0.0f;
  __syncthreads();
}

// products[r] = the warp's row r · this lane's row of the tile.
__device__ __forceinline__ void multiply(float (&products)[kWarpRows], const Shared &shared, int side) {
  const float4 *rows = shared.rows + side * kWarps * shared.width;
  const float *other = shared.tile + (threadIdx.x & 31) * (shared.width + 1);
  NT_UNROLL
  for (int r = 0; r < kWarpRows; r++) products[r] = 0.0f;
  for (int i = 0; i < shared.head_dim; i++) {
    const float4 row = rows[i];
    const float x = other[i];
    products[0] = fmaf(row.x, x, products[0]);
    products[1] = fmaf(row.y, x, products[1]);
    products[2] = fmaf(row.z, x, products[2]);
    products[3] = fmaf(row.w, x, products[3]);
  }
}

// sums[r] += Σ weight[r] · row of the tile, where each lane gives the weights of its row of the tile.
__device__ __forceinline__ void add_weighted(float (&sums)[kWarpRows][kColumns], const float (&weights)[kWarpRows],
                                             const Shared &shared) {
  const int lane = threadIdx.x & 31;
  __syncwarp();
  shared.weights[lane] = make_float4(weights[0], weights[1], weights[2], weights[3]);
  __syncwarp();
  for (int i = 0; i < kTile; i++) {
    const float4 weight = shared.weights[i];
    const float *row = shared.tile + i * (shared.width + 1) + lane;
    NT_UNROLL
    for (int c = 0; c < kColumns; c++) {
      if (32 * c >= shared.width) break;
      const float x = row[32 * c];
      sums[0][c] = fmaf(weight.x, x, sums[0][c]);
      sums[1][c] = fmaf(weight.y, x, sums[1][c]);
      sums[2][c] = fmaf(weight.z, x, sums[2][c]);
      sums[3][c] = fmaf(weight.w, x, sums[3][c]);
    }
  }
}

// Whether a query sees a key, and where the tiles of keys that a row's queries and later ones see begin.
__device__ __forceinline__ bool is_seen(int key, int query, int window) {
  return key <= query && key > query - window;
}
__device__ __forceinline__ int first_tile(int query, int window) {
  return max(0, query - window + 1) / kTile * kTile;
}

__device__ __forceinline__ void clear(float (&sums)[kWarpRows][kColumns]) {
  NT_UNROLL
  for (int r = 0; r < kWarpRows; r++) NT_UNROLL
    for (int c = 0; c < kColumns; c++) sums[r][c] = 0.0f;
}

// Row r of the warp goes to destination + r · ld, times factor[r], as far as there are `valid` rows.
template <class T>
__device__ __forceinline__ void store_rows(T *destination, int64_t ld, const float (&sums)[kWarpRows][kColumns],
                                           const float (&factor)[kWarpRows], int valid, int head_dim) {
  const int lane = threadIdx.x & 31;
  NT_UNROLL
  for (int r = 0; r < kWarpRows; r++) NT_UNROLL
    for (int c = 0; c < kColumns; c++)
      if (r < valid && lane + 32 * c < head_dim)
        destination[r * ld + lane + 32 * c] = from_float<T>(sums[r][c] * factor[r]);
}

// ------------------------------------------------------------------ forward

template <class T>
struct ForwardArguments {
  T *o;
  float *lse;  // or null
  const T *q, *k, *v;
  int64_t ldo, ldq, ldkv, kv_step, tokens;
  const SampleTile *tiles;
  int heads, group, head_dim, width, window;
  float scale;
};

template <class T>
__global__ void __launch_bounds__(kThreads, 4) attention_forward_plain_kernel(const ForwardArguments<T> a) {
  NT_DYNAMIC_SHARED(memory);
  const Shared shared = place(memory, a.head_dim, a.width, 1);
  const int lane = threadIdx.x & 31, warp_row = int(threadIdx.x >> 5) * kWarpRows;
  const int head = int(blockIdx.x % unsigned(a.heads));
  const SampleTile tile = a.tiles[blockIdx.x / unsigned(a.heads)];
  const int64_t token = tile.token, column = int64_t(head) * a.head_dim;
  const int64_t first_row = int64_t(tile.keys) * a.ldkv + head / a.group * a.kv_step;
  const int valid = min(kRows, tile.length - tile.first);
  const T *const k = a.k + first_row, *const v = a.v + first_row;
  load_rows(shared, 0, a.q + (token + tile.first) * a.ldq + column, a.ldq, valid);

  float sums[kWarpRows][kColumns], top[kWarpRows], total[kWarpRows];
  clear(sums);
  NT_UNROLL
  for (int r = 0; r < kWarpRows; r++) {
    top[r] = -INFINITY;
    total[r] = 0.0f;
  }
  for (int first = first_tile(tile.first, a.window); first < tile.first + valid; first += kTile) {
    load_tile(shared, k + first * a.ldkv, a.ldkv, tile.length - first);
    float p[kWarpRows];
    multiply(p, shared, 0);
    NT_UNROLL
    for (int r = 0; r < kWarpRows; r++) {
      const bool sees = is_seen(first + lane, tile.first + warp_row + r, a.window);
      const float score = sees ? p[r] * a.scale : -INFINITY, old = top[r];
      top[r] = fmaxf(old, warp_max(score));
      const float reference = top[r] == -INFINITY ? 0.0f : top[r], shrink = expf(old - reference);
      p[r] = expf(score - reference);
      total[r] = total[r] * shrink + p[r];
      NT_UNROLL
      for (int c = 0; c < kColumns; c++) sums[r][c] *= shrink;
    }
    load_tile(shared, v + first * a.ldkv, a.ldkv, tile.length - first);
    add_weighted(sums, p, shared);
  }

  const int64_t row = token + tile.first + warp_row;
  NT_UNROLL
  for (int r = 0; r < kWarpRows; r++) {
    total[r] = warp_sum(total[r]);
    if (a.lse != nullptr && lane == 0 && warp_row + r < valid)
      a.lse[head * a.tokens + row + r] = top[r] + logf(total[r]);
    total[r] = 1.0f / total[r];
  }
  store_rows(a.o + row * a.ldo + column, a.ldo, sums, total, valid - warp_row, a.head_dim);
}

template <class T>
int32_t forward(nt_context *context, const AttentionForward &call) {
  const AttentionSize &size = call.size;
  TileTable table;
  if (int32_t status = tile_table(context, size, kRows, TileOrder::kQueries, &table)) return status;
  const ForwardArguments<T> arguments = {static_cast<T *>(call.o),
                                         call.lse,
                                         static_cast<const T *>(call.q),
                                         static_cast<const T *>(call.k),
                                         static_cast<const T *>(call.v),
                                         call.ldo,
                                         call.ldq,
                                         call.ldkv,
                                         call.kv_step(),
                                         size.tokens,
                                         table.tiles,
                                         int(size.heads),
                                         int(size.group),
                                         int(size.head_dim),
                                         width_of(size.head_dim),
                                         int(size.window),
                                         size.scale};
  NT_CUDA(launch(attention_forward_plain_kernel<T>, dim3(unsigned(table.count * size.heads)), dim3(kThreads),
                 shared_bytes(size.head_dim, 1), context->stream, arguments),
          "attention_forward");
  return NT_OK;
}

// ------------------------------------------------------------------ backward

template <class T>
struct BackwardArguments {
  T *dq, *dk, *dv;
  float *delta;
  const T *dout, *o, *q, *k, *v;
  const float *lse;
  int64_t lddqkv, ldo, ldqkv, tokens;
  const SampleTile *tiles;
  int heads, kv_heads, group, head_dim, width, window;
  float scale;
};

// delta[head, token] = Σ do∘o, a warp for each.
template <class T>
__global__ void __launch_bounds__(kThreads, 4) attention_delta_plain_kernel(const BackwardArguments<T> a) {
  const int64_t item = int64_t(blockIdx.x) * kWarps + (threadIdx.x >> 5);
  if (item >= a.tokens * a.heads) return;
  const int64_t token = item / a.heads, head = item % a.heads, at = token * a.ldo + head * a.head_dim;
  float sum = 0.0f;
  for (int i = threadIdx.x & 31; i < a.head_dim; i += 32)
    sum = fmaf(to_float(a.dout[at + i]), to_float(a.o[at + i]), sum);
  sum = warp_sum(sum);
  if ((threadIdx.x & 31) == 0) a.delta[head * a.tokens + token] = sum;
}

// Rows: queries (side 0) and do (side 1). A lane is a key.
template <class T>
__global__ void __launch_bounds__(kThreads, 4) attention_backward_q_plain_kernel(const BackwardArguments<T> a) {
  NT_DYNAMIC_SHARED(memory);
  const Shared shared = place(memory, a.head_dim, a.width, 2);
  const int lane = threadIdx.x & 31, warp_row = int(threadIdx.x >> 5) * kWarpRows;
  const int head = int(blockIdx.x % unsigned(a.heads));
  const SampleTile tile = a.tiles[blockIdx.x / unsigned(a.heads)];
  const int64_t token = tile.token, column = int64_t(head) * a.head_dim;
  const int64_t kv_column = int64_t(head / a.group) * a.head_dim;
  const int valid = min(kRows, tile.length - tile.first);
  const T *const k = a.k + token * a.ldqkv + kv_column, *const v = a.v + token * a.ldqkv + kv_column;
  load_rows(shared, 0, a.q + (token + tile.first) * a.ldqkv + column, a.ldqkv, valid);
  load_rows(shared, 1, a.dout + (token + tile.first) * a.ldo + column, a.ldo, valid);

  const int64_t row = token + tile.first + warp_row;
  float sums[kWarpRows][kColumns], lse[kWarpRows], delta[kWarpRows], factor[kWarpRows];
  clear(sums);
  NT_UNROLL
  for (int r = 0; r < kWarpRows; r++) {
    const bool exists = warp_row + r < valid;
    lse[r] = exists ? a.lse[head * a.tokens + row + r] : 0.0f;
    delta[r] = exists ? a.delta[head * a.tokens + row + r] : 0.0f;
    factor[r] = a.scale;
  }
  for (int first = first_tile(tile.first, a.window); first < tile.first + valid; first += kTile) {
    float dp[kWarpRows], ds[kWarpRows];
    load_tile(shared, v + first * a.ldqkv, a.ldqkv, tile.length - first);
    multiply(dp, shared, 1);
    load_tile(shared, k + first * a.ldqkv, a.ldqkv, tile.length - first);
    multiply(ds, shared, 0);
    NT_UNROLL
    for (int r = 0; r < kWarpRows; r++) {
      const bool sees = warp_row + r < valid && is_seen(first + lane, tile.first + warp_row + r, a.window);
      ds[r] = sees ? expf(ds[r] * a.scale - lse[r]) * (dp[r] - delta[r]) : 0.0f;
    }
    add_weighted(sums, ds, shared);
  }
  store_rows(a.dq + row * a.lddqkv + column, a.lddqkv, sums, factor, valid - warp_row, a.head_dim);
}

// Rows: keys (side 0) and values (side 1). A lane is a query; the query heads of the group follow each other.
template <class T>
__global__ void __launch_bounds__(kThreads, 3) attention_backward_kv_plain_kernel(const BackwardArguments<T> a) {
  NT_DYNAMIC_SHARED(memory);
  const Shared shared = place(memory, a.head_dim, a.width, 2);
  const int lane = threadIdx.x & 31, warp_row = int(threadIdx.x >> 5) * kWarpRows;
  const int kv_head = int(blockIdx.x % unsigned(a.kv_heads));
  const SampleTile tile = a.tiles[blockIdx.x / unsigned(a.kv_heads)];
  const int64_t token = tile.token, kv_column = int64_t(kv_head) * a.head_dim;
  const int valid = min(kRows, tile.length - tile.first);
  load_rows(shared, 0, a.k + (token + tile.first) * a.ldqkv + kv_column, a.ldqkv, valid);
  load_rows(shared, 1, a.v + (token + tile.first) * a.ldqkv + kv_column, a.ldqkv, valid);

  const int end = min(tile.length, tile.first + kRows - 1 + a.window);  // of the queries that see the block's keys
  float key_sums[kWarpRows][kColumns], value_sums[kWarpRows][kColumns];
  clear(key_sums);
  clear(value_sums);
  for (int head = kv_head * a.group; head < (kv_head + 1) * a.group; head++) {
    const T *const q = a.q + token * a.ldqkv + int64_t(head) * a.head_dim;
    const T *const dout = a.dout + token * a.ldo + int64_t(head) * a.head_dim;
    for (int first = tile.first; first < end; first += kTile) {
      const int query = first + lane, queries = tile.length - first;
      const float lse = lane < queries ? a.lse[head * a.tokens + token + query] : 0.0f;
      const float delta = lane < queries ? a.delta[head * a.tokens + token + query] : 0.0f;
      float p[kWarpRows], ds[kWarpRows];
      load_tile(shared, q + first * a.ldqkv, a.ldqkv, queries);
      multiply(p, shared, 0);
      NT_UNROLL
      for (int r = 0; r < kWarpRows; r++) {
        const bool seen = lane < queries && is_seen(tile.first + warp_row + r, query, a.window);
        p[r] = seen ? expf(p[r] * a.scale - lse) : 0.0f;
      }
      load_tile(shared, dout + first * a.ldo, a.ldo, queries);
      multiply(ds, shared, 1);
      add_weighted(value_sums, p, shared);
      NT_UNROLL
      for (int r = 0; r < kWarpRows; r++) ds[r] = p[r] == 0.0f ? 0.0f : p[r] * (ds[r] - delta);
      load_tile(shared, q + first * a.ldqkv, a.ldqkv, queries);
      add_weighted(key_sums, ds, shared);
    }
  }
  const int64_t row = token + tile.first + warp_row;
  float factor[kWarpRows];
  NT_UNROLL
  for (int r = 0; r < kWarpRows; r++) factor[r] = a.scale;
  store_rows(a.dk + row * a.lddqkv + kv_column, a.lddqkv, key_sums, factor, valid - warp_row, a.head_dim);
  NT_UNROLL
  for (int r = 0; r < kWarpRows; r++) factor[r] = 1.0f;
  store_rows(a.dv + row * a.lddqkv + kv_column, a.lddqkv, value_sums, factor, valid - warp_row, a.head_dim);
}

template <class T>
int32_t backward(nt_context *context, const AttentionBackward &call) {
  const AttentionSize &size = call.size;
  TileTable queries, keys;
  if (int32_t status = tile_table(context, size, kRows, TileOrder::kQueries, &queries)) return status;
  if (int32_t status = tile_table(context, size, kRows, TileOrder::kKeys, &keys)) return status;
  BackwardArguments<T> arguments = {static_cast<T *>(call.dq),
                                    static_cast<T *>(call.dk),
                                    static_cast<T *>(call.dv),
                                    call.delta,
                                    static_cast<const T *>(call.dout),
                                    static_cast<const T *>(call.o),
                                    static_cast<const T *>(call.q),
                                    static_cast<const T *>(call.k),
                                    static_cast<const T *>(call.v),
                                    call.lse,
                                    call.lddqkv,
                                    call.ldo,
                                    call.ldqkv,
                                    size.tokens,
                                    queries.tiles,
                                    int(size.heads),
                                    int(size.kv_heads),
                                    int(size.group),
                                    int(size.head_dim),
                                    width_of(size.head_dim),
                                    int(size.window),
                                    size.scale};
  const size_t shared = shared_bytes(size.head_dim, 2);
  NT_CUDA(launch(attention_delta_plain_kernel<T>, dim3(unsigned(ceil_div(size.tokens * size.heads, kWarps))),
                 dim3(kThreads), 0, context->stream, arguments),
          "attention_backward: delta");
  NT_CUDA(launch(attention_backward_q_plain_kernel<T>, dim3(unsigned(queries.count * size.heads)), dim3(kThreads),
                 shared, context->stream, arguments),
          "attention_backward: dq");
  arguments.tiles = keys.tiles;
  NT_CUDA(launch(attention_backward_kv_plain_kernel<T>, dim3(unsigned(keys.count * size.kv_heads)), dim3(kThreads),
                 shared, context->stream, arguments),
          "attention_backward: dk and dv");
  return NT_OK;
}

}  // namespace

int32_t attention_forward_plain(nt_context *context, const AttentionForward &call) {
  return call.dtype == NT_F32 ? forward<float>(context, call) : forward<bf16>(context, call);
}

int32_t attention_backward_plain(nt_context *context, const AttentionBackward &call) {
  return call.dtype == NT_F32 ? backward<float>(context, call) : backward<bf16>(context, call);
}

}  // namespace nt
