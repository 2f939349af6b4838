// What the attention kernels share: the arguments of a call, tiles of bf16 rows in shared memory, and the table of
// tiles that stands for a batch of samples of different lengths.
//
// Everything is counted inside a sample: a tile's rows and keys have positions 0 … length − 1, a key is seen by the
// queries at its own position and later, `window` of them at most. So a key past the sample's end is past every query,
// and the causal mask covers ragged ends too.
#pragma once
#include <stdlib.h>

#include "../entry/attention_checks.h"
#include "../entry/rope_tables.h"
#include "context.h"

namespace nt {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// ------------------------------------------------------------------ arguments

template <class T>
constexpr int32_t kDtype = sizeof(T) == sizeof(float) ? NT_F32 : NT_BF16;

// As nt_attention_forward has them.
struct AttentionForward {
  int32_t dtype;
  AttentionSize size;
  void *o;
  int64_t ldo;
  float *lse;
  const void *q;
  int64_t ldq;
  const void *k, *v;
  int64_t ldkv;

  // Elements from a key/value head to the next.
  int64_t kv_step() const { return size.slots == nullptr ? size.head_dim : size.capacity * ldkv; }
};

// As nt_attention_backward has them.
struct AttentionBackward {
  int32_t dtype;
  AttentionSize size;
  void *dq, *dk, *dv;
  int64_t lddqkv;
  float *delta;
  const void *dout, *o;
  int64_t ldo;
  const void *q, *k, *v;
  int64_t ldqkv;
  const float *lse;
  Rope rope;  // that q and k came out of
};

// Any head_dim, f32 or bf16, any alignment: the check of the fast kernels and what they leave to it
// (attention_plain.cu).
int32_t attention_forward_plain(nt_context *context, const AttentionForward &call);
int32_t attention_backward_plain(nt_context *context, const AttentionBackward &call);

// Whether heads of rows at `p`, `ld` elements apart, can be read and written 16 bytes at a time, or 8 where a head is no
// multiple of 16 bytes. Offsets inside a tile of rows are 32-bit numbers in the fast kernels, so that rows farther apart
// than any model's count as unaligned.
inline bool rows_aligned(const void *p, int64_t ld, int64_t head_dim) {
  const int together = head_dim % 8 == 0 ? 8 : 4;
  return reinterpret_cast<uintptr_t>(p) % (2 * together) == 0 && ld % together == 0 && ld < (int64_t(1) << 22);
}
// What the forward and the backward pass have fast kernels for.
inline bool has_tiles(int32_t dtype, int64_t head_dim) {
  if (dtype != NT_BF16) return false;
  for (const int each : {64, 80, 96, 100, 128, 256})
    if (head_dim == each) return true;
  return false;
}

// How many columns of its tiles, which have head_dim, a head has. Heads of 100 (OpenLLaMA 3B) go by tiles of 112, with zeros
// in the last 12 columns; there is no other use of 112.
template <int head_dim>
constexpr int kHeadColumns = head_dim == 112 ? 100 : head_dim;

// A constant that a lambda receives as an argument.
template <bool condition>
struct Flag {
  static constexpr bool value = condition;
};

// ------------------------------------------------------------------ tiles in shared memory

// Rows of bf16, head_dim wide, as ldmatrix reads them without bank conflicts: columns are cut into panels of 64 (32
// where head_dim is not a multiple of 64; the last one may have room left), each [rows][panel columns]. The 16-byte
// chunk c of row r lies at c ^ (r mod 8); rows of 32, two of which fill the 128 bytes of all banks, have 4 chunks and
// take c ^ (r / 2 mod 4).
// Any 8 rows that follow a multiple of 8 then have their chunk c in different banks, and so have the 8 chunks that
// neighboring lanes copy in.
template <int head_dim, int rows>
struct Tile {
  static constexpr int kColumns = head_dim;
  static constexpr int kPanelColumns = head_dim % 64 == 0 ? 64 : 32;
  static constexpr int kRowBytes = kPanelColumns * 2;
  static constexpr int kChunks = kPanelColumns / 8;
  static constexpr int kPanels = (head_dim + kPanelColumns - 1) / kPanelColumns;
  static constexpr int kBytes = rows * kPanels * kRowBytes;
  static_assert(head_dim % 16 == 0 && rows % 8 == 0, "tiles are made of whole 16 × 16 blocks");

  // Whether a chunk of a panel holds columns of head_dim.
  __device__ __forceinline__ static bool has(int panel, int chunk) {
    return head_dim % kPanelColumns == 0 || panel * kChunks + chunk < head_dim / 8;
  }

  __device__ __forceinline__ static int swizzle(int row) { return kChunks == 8 ? row & 7 : row >> 1 & 3; }

  // Where chunk `chunk` (0 … head_dim / 8 − 1) of a row lies.
  __device__ __forceinline__ static int offset(int row, int chunk) {
    return ((chunk / kChunks) * rows + row) * kRowBytes + (((chunk % kChunks) ^ swizzle(row)) << 4);
  }

  // ldmatrix loads 16 × 16 values as four 8 × 8 matrices; these are the two orders in which they are wanted, given as
  // what this lane adds to the address of the 16 × 16 block (see `block`).
  // Down the rows first, (0, 0) (8, 0) (0, 8) (8, 8): the A operand; transposed, the B operand whose k are the rows.
  __device__ __forceinline__ static int lane_down(int lane) { return offset(lane & 15, lane >> 4); }
  // Along the columns first, (0, 0) (0, 8) (8, 0) (8, 8): the B operand whose k are the columns, n the rows.
  __device__ __forceinline__ static int lane_along(int lane) {
    return offset((lane & 7) | (lane >> 1 & 8), lane >> 3 & 1);
  }

  // What this lane gives to load_matrix for the block at `row` (a multiple of 8), columns 16·k …: with constants, one
  // xor for each k of a panel, and the rest in the instruction.
  __device__ __forceinline__ static int block(int lane_offset, int row, int k) {
    return ((2 * k / kChunks) * rows + row) * kRowBytes + (lane_offset ^ ((2 * k % kChunks) << 4));
  }
};

// A chunk is the 8 columns of a row from `column` on. Where a head is no multiple of 16 bytes, its halves go one by one, and
// those that lie past the head's last column are zeros, or not written.

// Starts copying a chunk of a row to a tile; zeros where there is no such row. some: any address of the tensor.
template <int head_dim>
__device__ __forceinline__ void copy_chunk(unsigned char *to, const bf16 *from, int column, bool exists,
                                           const bf16 *some) {
  if constexpr (kHeadColumns<head_dim> == head_dim) {
    copy_async(to, exists ? from : some, exists);
  } else {
    NT_UNROLL
    for (int half = 0; half < 2; half++) {
      const bool has = exists && column + 4 * half < kHeadColumns<head_dim>;
      copy_async_half(to + 8 * half, has ? from + 4 * half : some, has);
    }
  }
}

// A chunk that nobody reads again soon.
template <int head_dim>
__device__ __forceinline__ Pack<bf16> load_chunk_once(const bf16 *from, int column) {
  if constexpr (kHeadColumns<head_dim> == head_dim) {
    return load_pack_once(from);
  } else {
    uint2 halves[2] = {};
    NT_UNROLL
    for (int half = 0; half < 2; half++)
      if (column + 4 * half < kHeadColumns<head_dim>) halves[half] = __ldcs(reinterpret_cast<const uint2 *>(from) + half);
    Pack<bf16> pack;
    memcpy(&pack, halves, 16);
    return pack;
  }
}

// Writes a chunk of a tile to a row.
template <int head_dim>
__device__ __forceinline__ void store_chunk(bf16 *to, const unsigned char *from, int column) {
  if constexpr (kHeadColumns<head_dim> == head_dim) {
    store_pack(to, load_pack(reinterpret_cast<const bf16 *>(from)));
  } else {
    NT_UNROLL
    for (int half = 0; half < 2; half++)
      if (column + 4 * half < kHeadColumns<head_dim>)
        reinterpret_cast<uint2 *>(to)[half] = reinterpret_cast<const uint2 *>(from)[half];
  }
}

// Starts copying `rows` rows to a tile, by all `threads` threads of the block: 8 (4) lanes copy the 128 (64) bytes of a
// row in a panel. source is the first row, `ld` elements apart from the next. Rows from `valid` ≥ 1 on become zeros,
// except with `whole`, which promises that all rows exist.
template <int head_dim, int rows, int threads, bool whole>
__device__ __forceinline__ void load_tile(unsigned char *tile, const bf16 *source, int ld, int valid) {
  typedef Tile<head_dim, rows> T;
  constexpr int step = threads / T::kChunks;  // rows copied at once
  static_assert(step % 8 == 0 && rows % step == 0, "a thread's rows have one swizzle, and all threads as many");
  const int row = int(threadIdx.x / T::kChunks), chunk = int(threadIdx.x % T::kChunks);
  const bf16 *from = source + row * ld + chunk * 8;
  unsigned char *to = tile + T::offset(row, chunk);
  NT_UNROLL
  for (int r = 0; r < rows; r += step) {
    const bool exists = whole || row + r < valid;
    NT_UNROLL
    for (int panel = 0; panel < T::kPanels; panel++)
      if (T::has(panel, chunk))
        copy_chunk<head_dim>(to + (panel * rows + r) * T::kRowBytes, from + panel * T::kPanelColumns,
                             panel * T::kPanelColumns + chunk * 8, exists, source);
    from += step * ld;
  }
}

// ------------------------------------------------------------------ tiles of a batch

// One block's part of a sample: positions first … first + rows − 1 (rows: of the table), cut at `length`.
struct alignas(16) SampleTile {
  int32_t token;   // row of q and o in which the sample's position 0 is, or would be (negative: in a cache only)
  int32_t length;  // of the sample
  int32_t first;
  int32_t keys;  // row of k and v with position 0 and key/value head 0
};

// By tiles of queries, each reading the keys up to its own end; or by tiles of keys, each reading the queries from its
// own start on. A window cuts off what is far away: tiles then have less to read, in the same order.
enum class TileOrder { kQueries, kKeys };

// Tiles of all samples, those with the most to read first, as blocks start in that order and the last to start should
// be short. Blocks are numbered tile · heads + head: heads of one group are neighbors and share keys in L2.
struct TileTable {
  const SampleTile *tiles;  // on the device, valid in this call
  int64_t count;
};

inline int32_t tile_table(nt_context *context, const AttentionSize &size, int rows, TileOrder order, TileTable *table) {
  int64_t count = 0, longest = 0;
  for (int64_t s = 0; s < size.sequences; s++) {
    const int64_t tiles = ceil_div(size.queries(s), rows);
    count += tiles;
    if (tiles > longest) longest = tiles;
  }
  *table = {nullptr, count};
  if (count == 0) return NT_OK;

  // A counting sort by the number of tiles to read, 1 … longest: starts[work] is where the tiles with that much begin.
  auto *tiles = static_cast<SampleTile *>(malloc(size_t(count) * sizeof(SampleTile)));
  auto *starts = static_cast<int64_t *>(calloc(size_t(longest) + 1, sizeof(int64_t)));
  if (tiles == nullptr || starts == nullptr) {
    free(tiles);
    free(starts);
    return fail(NT_OUT_OF_MEMORY, "attention: no host memory for a table of %lld tiles", (long long)count);
  }
  // A sample of n tiles has one tile with each amount of work, 1 … n, in either order.
  for (int64_t s = 0; s < size.sequences; s++) starts[ceil_div(size.queries(s), rows)]++;
  for (int64_t work = longest, at = 0, samples = 0; work > 0; work--) {
    samples += starts[work];
    starts[work] = at;
    at += samples;
  }
  for (int64_t s = 0; s < size.sequences; s++) {
    const int32_t token = int32_t(size.row(s)), length = int32_t(size.length(s));
    const int64_t n = ceil_div(size.queries(s), rows);
    const int64_t keys = size.slots == nullptr ? token : size.slots[s] * size.kv_heads * size.capacity;
    for (int64_t i = 0; i < n; i++) {
      const int64_t work = order == TileOrder::kQueries ? i + 1 : n - i;
      tiles[starts[work]++] = {token, length, int32_t(size.start(s) + i * rows), int32_t(keys)};
    }
  }
  table->tiles = device_table(context, tiles, count);
  free(tiles);
  free(starts);
  return table->tiles == nullptr ? NT_DEVICE : NT_OK;
}

}  // namespace nt
