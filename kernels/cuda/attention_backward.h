// What the two fast passes of the attention backward share: products of tiles in tensor cores, and results on their
// way out. Both passes have head_dim 64, 80, 96, 100, 128 or 256 in bf16 with aligned rows, and recompute
//   P = exp2(scale · log₂e · q·kᵀ − lse · log₂e),  dS = P ∘ (dO·Vᵀ − D),  D = Σ dO∘O.
// A warp owns 16·M rows of the block's own tile and their sums in registers; tiles of the other side stream by.
#pragma once
#include "attention.h"

namespace nt {

// dQ of all tiles, and D, which goes to delta; then dK and dV.
int32_t attention_backward_q(nt_context *context, const AttentionBackward &call);
int32_t attention_backward_kv(nt_context *context, const AttentionBackward &call);

// AttentionBackward for a kernel.
struct BackwardArguments {
  const SampleTile *tiles;
  bf16 *dq, *dk, *dv;
  const bf16 *dout, *o, *q, *k, *v;
  const float *lse;  // [heads, tokens], as is delta
  float *delta;
  Rope rope;
  int64_t tokens;
  int ldd, ldo, ld;
  int group;   // query heads of a key/value head
  int window;  // positions that a position sees, itself included
  float scale, factor;  // of scores: scale · log₂ e
};

inline BackwardArguments backward_arguments(const AttentionBackward &call, const SampleTile *tiles) {
  auto in = [](const void *x) { return static_cast<const bf16 *>(x); };
  auto out = [](void *x) { return static_cast<bf16 *>(x); };
  return {tiles,
          out(call.dq),
          out(call.dk),
          out(call.dv),
          in(call.dout),
          in(call.o),
          in(call.q),
          in(call.k),
          in(call.v),
          call.lse,
          call.delta,
          call.rope,
          call.size.tokens,
          int(call.lddqkv),
          int(call.ldo),
          int(call.ldqkv),
          int(call.size.group),
          int(call.size.window),
          call.size.scale,
          call.size.scale * kLog2E};
}

// One block a head and tile, heads side by side so that those of a group share keys and queries in L2: blockIdx.x and y
// are the head, z is the tile. A grid has 65,535 in that direction.
template <class Tiling>
int32_t launch_tiles(nt_context *context, void (*kernel)(BackwardArguments), const AttentionBackward &call,
                     TileOrder order, int64_t heads_x, int64_t heads_y, const char *what) {
  TileTable table;
  if (int32_t status = tile_table(context, call.size, Tiling::rows, order, &table)) return status;
  for (int64_t first = 0; first < table.count; first += 65535) {
    const int64_t left = table.count - first;
    const dim3 grid(unsigned(heads_x), unsigned(heads_y), unsigned(left < 65535 ? left : 65535));
    NT_CUDA(nt::launch(kernel, grid, Tiling::threads, Tiling::bytes, context->stream,
                       backward_arguments(call, table.tiles + first)),
            what);
  }
  return NT_OK;
}

// The kernels are as large as their registers allow: sums and tiles of scores leave some forty. What is found from the
// numbers of the thread and the block within a few instructions is therefore found where it is needed, each time.

// A block's tile: rows begin … end − 1 of the sample that starts at `token`.
struct Place {
  int token, begin, end;
};
__device__ __forceinline__ Place tile_place(const SampleTile *tiles, int number) {
  const SampleTile tile = tiles[computed_here(number)];
  return {tile.token, tile.first, tile.length};
}

// A lane's number, its warp's first row in the block's own tile, and what it adds to the address of a 16 × 16 block for
// ldmatrix, the same for all tiles of a head_dim: A operands and transposed B operands take their four matrices down the
// rows first, B operands along the columns first (see Tile).
struct Lane {
  int index, row, down, along;
};
// `sharing` warps have the same rows.
template <class T, int M, int sharing = 1>
__device__ __forceinline__ Lane this_lane() {
  const int thread = computed_here(threadIdx.x), lane = thread & 31;
  return {lane, 16 * M * int(unsigned(thread) / (32 * sharing)), T::lane_down(lane), T::lane_along(lane)};
}

// Starts copying rows position … of a sample's x and y, head_dim columns from `column` on, to two tiles; rows from `end`
// on become zeros.
template <class T, int rows, int threads>
__device__ __forceinline__ void load_tiles(unsigned char *x_tile, const bf16 *x, int ldx, unsigned char *y_tile,
                                           const bf16 *y, int ldy, int token, int position, int end, int column) {
  constexpr int most = threads / T::kChunks, step = most < rows ? most : rows;
  static_assert(step % 8 == 0 && rows % step == 0, "a thread's rows have one swizzle, and all threads as many");
  const int thread = computed_here(threadIdx.x), row = thread / T::kChunks, chunk = thread % T::kChunks;
  if (most > rows && row >= rows) return;
  unsigned char *x_to = x_tile + T::offset(row, chunk), *y_to = y_tile + T::offset(row, chunk);
  NT_UNROLL
  for (int r = 0; r < rows; r += step) {
    const bool exists = position + row + r < end;
    const int64_t at = token + (exists ? position + row + r : 0);
    const bf16 *x_from = x + at * ldx + (column + 8 * chunk), *y_from = y + at * ldy + (column + 8 * chunk);
    NT_UNROLL
    for (int panel = 0; panel < T::kPanels; panel++) {
      if (!T::has(panel, chunk)) continue;
      const int to = (panel * rows + r) * T::kRowBytes, from = panel * T::kPanelColumns;
      copy_chunk<T::kColumns>(x_to + to, x_from + from, from + 8 * chunk, exists, x_from);
      copy_chunk<T::kColumns>(y_to + to, y_from + from, from + 8 * chunk, exists, y_from);
    }
  }
}

// The 16 × 16 blocks at columns 16·k of the warp's M · 16 rows, as A operands. a: a tile from the warp's first row on.
template <class A, int M>
__device__ __forceinline__ void load_operand(uint32_t (&x)[M][4], const unsigned char *a, int k, int down) {
  NT_UNROLL
  for (int m = 0; m < M; m++) load_matrix(x[m], a + A::block(down, 16 * m, k));
}

// sum[m][n] += x[m] · (rows 8·n … of b at columns 16·k …)ᵀ.
template <class B, int M, int N>
__device__ __forceinline__ void multiply_rows(float (&sum)[M][N][4], const uint32_t (&x)[M][4], const unsigned char *b,
                                              int k, int along) {
  NT_UNROLL
  for (int n = 0; n < N; n += 2) {
    uint32_t y[4];  // rows 8·n … at columns 16·k … and 16·k + 8 …, then rows 8·n + 8 …
    load_matrix(y, b + B::block(along, 8 * n, k));
    NT_UNROLL
    for (int m = 0; m < M; m++) {
      mma(sum[m][n], x[m], y[0], y[1]);
      mma(sum[m][n + 1], x[m], y[2], y[3]);
    }
  }
}

// sum[m][n] += (rows 16·m … of a) · (rows 8·n … of b)ᵀ over all head_dim columns.
template <class A, class B, int head_dim, int M, int N>
__device__ __forceinline__ void multiply_rows(float (&sum)[M][N][4], const unsigned char *a, const unsigned char *b,
                                              const Lane &lane) {
  NT_UNROLL
  for (int k = 0; k < head_dim / 16; k++) {
    uint32_t x[M][4];
    load_operand<A>(x, a, k, lane.down);
    multiply_rows<B>(sum, x, b, k, lane.along);
  }
}

// sum[m] (16 × head_dim) += x[m] (16 × 16) · rows row … row + 15 of b.
template <class B, int head_dim, int M>
__device__ __forceinline__ void multiply_columns(float (&sum)[M][head_dim / 8][4], const uint32_t (&x)[M][4],
                                                 const unsigned char *b, int row, int down) {
  NT_UNROLL
  for (int k = 0; k < head_dim / 16; k++) {
    uint32_t y[4];
    load_matrix_transposed(y, b + B::block(down, row, k));
    NT_UNROLL
    for (int m = 0; m < M; m++) {
      mma(sum[m][2 * k], x[m], y[0], y[1]);
      mma(sum[m][2 * k + 1], x[m], y[2], y[3]);
    }
  }
}

// Two neighboring 16 × 8 accumulators as the 16 × 16 A operand of the next product: same lanes, same order.
template <int M>
__device__ __forceinline__ void pack_half(uint32_t (&a)[M][4], int m, int half, const float (&sum)[4]) {
  a[m][2 * half] = pack_bf16(sum[0], sum[1]);
  a[m][2 * half + 1] = pack_bf16(sum[2], sum[3]);
}

// Turns the warp's rows back by RoPE, where they were turned; `token` is that of the block's first row, `valid` its rows
// that exist. A pair (i, i + head_dim / 2) lies in one lane where a tile is as wide as a head (else the caller turns them
// back), so that this happens in registers. The tables (8 bytes a pair) come out of L2, for a row of all pairs at once. A
// position below 0 makes NaN, as in rope.cu.
template <class A, int head_dim, int sharing = 1, int M>
__device__ __forceinline__ void turn_back(float (&sum)[M][head_dim / 8][4], const Rope &rope, int token, int valid) {
  constexpr int N = head_dim / 16;  // of half a head
  if (kHeadColumns<head_dim> != head_dim || rope.positions == nullptr) return;
  const Lane lane = this_lane<A, M, sharing>();
  NT_UNROLL
  for (int m = 0; m < M; m++) {
    NT_UNROLL
    for (int half = 0; half < 2; half++) {
      const int row = lane.row + 16 * m + 8 * half + (lane.index >> 2);
      if (row >= valid) continue;
      const int position = rope.positions[token + row];
      const int64_t at = int64_t(position < 0 ? 0 : position) * (head_dim / 2) + 2 * (lane.index & 3);
      float2 c[N], s[N];
      NT_UNROLL
      for (int n = 0; n < N; n++) {
        c[n] = *reinterpret_cast<const float2 *>(rope.cosine + at + 8 * n);
        s[n] = *reinterpret_cast<const float2 *>(rope.sine + at + 8 * n);
      }
      NT_UNROLL
      for (int n = 0; n < N; n++) {
        NT_UNROLL
        for (int i = 0; i < 2; i++) {
          float &x = sum[m][n][2 * half + i], &y = sum[m][n + N][2 * half + i];
          const float cosine = position < 0 ? NAN : i == 0 ? c[n].x : c[n].y, sine = i == 0 ? s[n].x : s[n].y;
          const float turned = fmaf(x, cosine, y * sine);
          y = fmaf(y, cosine, -(x * sine));
          x = turned;
        }
      }
    }
  }
}

// Writes scale · sum to the rows of `out`, `ld` apart, that exist (the first `valid`), 16 bytes a lane. On the way they
// lie in `tile`, in the warp's own rows, which no other warp reads.
template <class A, int head_dim, int sharing = 1, int M>
__device__ __forceinline__ void store_rows(bf16 *out, int ld, int valid, const float (&sum)[M][head_dim / 8][4],
                                           float scale, unsigned char *tile) {
  const Lane lane = this_lane<A, M, sharing>();
  unsigned char *own = tile + lane.row * A::kRowBytes;
  __syncwarp();  // the other lanes have read the rows
  NT_UNROLL
  for (int m = 0; m < M; m++) {
    NT_UNROLL
    for (int n = 0; n < head_dim / 8; n++) {
      NT_UNROLL
      for (int half = 0; half < 2; half++) {
        const uint32_t pair = pack_bf16(scale * sum[m][n][2 * half], scale * sum[m][n][2 * half + 1]);
        // By a pointer of its type: nvcc makes four byte stores of a memcpy.
        *reinterpret_cast<uint32_t *>(own + A::offset(16 * m + 8 * half + (lane.index >> 2), n) + 4 * (lane.index & 3)) =
            pair;
      }
    }
  }
  __syncwarp();
  constexpr int chunks = head_dim / 8;
  for (int i = lane.index; i < 16 * M * chunks; i += 32) {
    const int row = i / chunks, chunk = i % chunks;
    if (lane.row + row < valid)
      store_chunk<head_dim>(out + (lane.row + row) * ld + 8 * chunk, own + A::offset(row, chunk), 8 * chunk);
  }
}

}  // namespace nt
