// LoRA's gradients, bf16 on tensor cores: dB[N,R] += dyᵀ·u and dA[R,N] += gᵀ·x, sums over the T tokens. The wide
// operand is read once, 2N bytes a token, the narrow one out of L2 once for every 128 columns. T is cut into parts, so
// that a few wide tiles fill the machine; each part's float32 sums go to the workspace (4NR bytes a part, written and
// read) and are added in order by the block that comes last.
#pragma once
#include "context.h"
#include "last_block.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kOuterThreads = 128, kOuterStages = 4, kOuterT = 32, kOuterWide = 128, kOuterNarrow = 64;
constexpr int64_t kOuterParts = 32, kOuterPartRows = 256;  // at most, at least

// Shared memory of a stage: 32 rows of 128 bf16, 16-byte chunk c of row t at c ^ (t mod 8); 32 rows of 8·tiles bf16, an
// odd number of chunks apart.
constexpr int kOuterWideBytes = kOuterT * kOuterWide * 2;
__host__ __device__ constexpr int outer_stage_bytes(int tiles) { return kOuterWideBytes + kOuterT * (tiles + 1) * 16; }

// c[n, r] += Σ_t wide[t, n]·narrow[t, r]; c[n, r] stands at n · step_n + r · step_r.
struct OuterProduct {
  float *c;
  int64_t step_n, step_r;
  const bf16 *wide;
  int64_t ld_wide;
  const bf16 *narrow;
  int64_t ld_narrow;
  int64_t N, R;
};

// How T is cut up. With several parts each block leaves its sums in `partial`, [tile][part][fragment][thread], where
// only the same thread of another block reads them, and counts itself at its tile's counter.
struct OuterSplit {
  int64_t T, rows_a_part;
  int parts;
  float *partial;
  unsigned *counters;
};
__host__ __device__ constexpr int64_t outer_partial_floats(int tiles) { return int64_t(2) * tiles * 4 * kOuterThreads; }

// Starts copying a stage's rows t0 … of the narrow operand, columns r0 …; rows from `end` on become zeros.
template <int tiles>
__device__ __forceinline__ void outer_load_narrow(unsigned char *into, const OuterProduct &p, int64_t t0, int64_t end,
                                                  int64_t r0) {
  NT_UNROLL
  for (int i = 0; i < (kOuterT * tiles + kOuterThreads - 1) / kOuterThreads; i++) {
    const int at = i * kOuterThreads + int(threadIdx.x), row = at / tiles, chunk = at % tiles;
    if (at >= kOuterT * tiles) break;
    const bool valid = t0 + row < end && r0 + chunk * 8 < p.R;
    copy_async(into + (row * (tiles + 1) + chunk) * 16,
               valid ? p.narrow + (t0 + row) * p.ld_narrow + r0 + chunk * 8 : p.narrow, valid);
  }
}

// sums[i][tile] (16 of the warp's 32 n × 8 r) += over a stage's rows of both operands.
template <int tiles>
__device__ __forceinline__ void outer_multiply(float (&sums)[2][tiles][4], const unsigned char *left,
                                               const unsigned char *right) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int low = lane & 7, middle = lane >> 3 & 1, high = lane >> 4;
  NT_UNROLL
  for (int step = 0; step < kOuterT / 16; step++) {
    uint32_t a[2][4];  // both operands lie along t, their sum's k: transposed on the way to registers
    NT_UNROLL
    for (int i = 0; i < 2; i++) {
      const int t = step * 16 + low + high * 8, chunk = warp * 4 + i * 2 + middle;
      load_matrix_transposed(a[i], left + t * 256 + ((chunk ^ low) << 4));
    }
    NT_UNROLL
    for (int pair = 0; pair < tiles / 2; pair++) {
      const int t = step * 16 + low + middle * 8;
      uint32_t b[4];
      load_matrix_transposed(b, right + (t * (tiles + 1) + pair * 2 + high) * 16);
      NT_UNROLL
      for (int i = 0; i < 2; i++) {
        mma(sums[i][2 * pair], a[i], b[0], b[1]);
        mma(sums[i][2 * pair + 1], a[i], b[2], b[3]);
      }
    }
  }
}

// Where a block's sums go when it has walked over its rows: to c, at once or by the last of the tile's blocks.
template <int tiles>
__device__ __forceinline__ void outer_finish(float (&sums)[2][tiles][4], const OuterProduct &p, const OuterSplit &split,
                                             int tile_number, int part, int64_t n0, int64_t r0) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  if (split.parts > 1) {
    float *const partial = split.partial + int64_t(tile_number) * split.parts * outer_partial_floats(tiles) +
                           4 * int(threadIdx.x);
    const auto fragment = [&](int of_part, int i, int tile) {
      return partial + of_part * outer_partial_floats(tiles) + (i * tiles + tile) * 4 * kOuterThreads;
    };
    NT_UNROLL
    for (int i = 0; i < 2; i++) {
      NT_UNROLL
      for (int tile = 0; tile < tiles; tile++) {
        const float(&sum)[4] = sums[i][tile];
        store_pack(fragment(part, i, tile), Pack<float>{{sum[0], sum[1], sum[2], sum[3]}});
      }
    }
    if (!is_last_block(split.counters + tile_number, unsigned(split.parts))) return;
    constexpr int kAhead = tiles <= 2 ? 4 : tiles <= 4 ? 2 : 1;  // parts read before the first of them is added
    for (int first = 0; first < split.parts; first += kAhead) {
      Pack<float> packs[kAhead][2][tiles] = {};
      NT_UNROLL
      for (int ahead = 0; ahead < kAhead; ahead++) {
        NT_UNROLL
        for (int at = 0; at < 2 * tiles; at++)
          if (first + ahead < split.parts)
            packs[ahead][at / tiles][at % tiles] = load_pack(fragment(first + ahead, at / tiles, at % tiles));
      }
      NT_UNROLL
      for (int ahead = 0; ahead < kAhead; ahead++) {
        NT_UNROLL
        for (int at = 0; at < 8 * tiles; at++) {
          const float x = packs[ahead][at / 4 / tiles][at / 4 % tiles].x[at % 4];
          float &sum = sums[at / 4 / tiles][at / 4 % tiles][at % 4];
          if (first + ahead < split.parts) sum = first + ahead == 0 ? x : sum + x;
        }
      }
    }
  }
  NT_UNROLL
  for (int i = 0; i < 2; i++) {
    NT_UNROLL
    for (int tile = 0; tile < tiles; tile++) {
      NT_UNROLL
      for (int e = 0; e < 4; e++) {
        const int64_t n = n0 + warp * 32 + i * 16 + (lane >> 2) + 8 * (e >> 1);
        const int64_t r = r0 + tile * 8 + 2 * (lane & 3) + (e & 1);
        if (n < p.N && r < p.R) p.c[n * p.step_n + r * p.step_r] += sums[i][tile][e];
      }
    }
  }
}

// Part `part` of the sum for 128 n (32 a warp) from n0 on and 8·tiles r from r0 on, which are tile number `tile` of the
// launch. The last of the tile's blocks adds all parts to c.
template <int tiles>
__device__ __forceinline__ void lora_outer_block(unsigned char *memory, const OuterProduct &p, const OuterSplit &split,
                                                 int tile_number, int part, int64_t n0, int64_t r0) {
  constexpr int kStage = outer_stage_bytes(tiles);
  const int64_t begin = part * split.rows_a_part;
  const int64_t end = begin + split.rows_a_part < split.T ? begin + split.rows_a_part : split.T;
  const int stages = int((end - begin + kOuterT - 1) / kOuterT);

  const auto load = [&](int stage) {
    unsigned char *into = memory + stage % kOuterStages * kStage;
    const int64_t t0 = begin + int64_t(stage) * kOuterT;
    NT_UNROLL
    for (int i = 0; i < kOuterT * 16 / kOuterThreads; i++) {
      const int at = i * kOuterThreads + int(threadIdx.x), row = at >> 4, chunk = at & 15;
      const bool valid = t0 + row < end && n0 + chunk * 8 < p.N;
      copy_async(into + row * 256 + ((chunk ^ (row & 7)) << 4),
                 valid ? p.wide + (t0 + row) * p.ld_wide + n0 + chunk * 8 : p.wide, valid);
    }
    outer_load_narrow<tiles>(into + kOuterWideBytes, p, t0, end, r0);
  };

  for (int stage = 0; stage < kOuterStages - 1; stage++) {
    if (stage < stages) load(stage);
    copy_async_commit();
  }
  float sums[2][tiles][4] = {};
  for (int stage = 0; stage < stages; stage++) {
    copy_async_wait<kOuterStages - 2>();
    __syncthreads();
    if (stage + kOuterStages - 1 < stages) load(stage + kOuterStages - 1);
    copy_async_commit();
    const unsigned char *left = memory + stage % kOuterStages * kStage, *right = left + kOuterWideBytes;
    outer_multiply<tiles>(sums, left, right);
  }
  outer_finish<tiles>(sums, p, split, tile_number, part, n0, r0);
}

template <int tiles>
__global__ __launch_bounds__(kOuterThreads, 3) void lora_outer_kernel(const OuterProduct product, const OuterSplit split) {
  NT_DYNAMIC_SHARED(memory);
  lora_outer_block<tiles>(memory, product, split, int(blockIdx.y * gridDim.x + blockIdx.x), int(blockIdx.z),
                          int64_t(blockIdx.x) * kOuterWide, int64_t(blockIdx.y) * tiles * 8);
}

inline bool can_lora_outer(const void *wide, int64_t ld_wide, const void *narrow, int64_t ld_narrow, int64_t N,
                           int64_t R) {
  return N % 8 == 0 && R % 8 == 0 && ld_wide % 8 == 0 && ld_narrow % 8 == 0 &&
         aligned16(wide, narrow) &&
         ceil_div(R, kOuterNarrow) <= 65535;
}

// Blocks that run at once, `bytes` of shared memory each.
inline int64_t concurrent_blocks(const nt_context *context, int bytes) {
  const int64_t fit = (context->shared_limit + 1024) / (bytes + 1024);  // a block takes 1 KB more than it asks for
  return context->multiprocessors * (fit < 1 ? 1 : fit < 3 ? fit : 3);
}

// For `tiles_in_all` tiles of 8·tiles columns: as many parts, of at least `least_rows` rows, as fill `blocks` blocks,
// rounded down, as few that come later would run alone.
inline OuterSplit outer_split(const nt_context *context, int64_t T, int64_t tiles_in_all, int tiles, int64_t blocks,
                              int64_t least_rows = kOuterPartRows) {
  int64_t parts = blocks / (tiles_in_all > 0 ? tiles_in_all : 1);
  const int64_t room = context->workspace_bytes / (tiles_in_all * outer_partial_floats(tiles) * 4 + 1);
  for (const int64_t most : {ceil_div(T, least_rows), kOuterParts, room})
    if (parts > most) parts = most;
  if (parts < 1 || tiles_in_all > kCounters) parts = 1;
  const int64_t rows_a_part = ceil_div(ceil_div(T, parts), kOuterT) * kOuterT;
  return {T, rows_a_part, int(ceil_div(T, rows_a_part)), static_cast<float *>(context->workspace), context->counters};
}

// c += wideᵀ·narrow over T rows, tiles of columns counted in 8.
template <int tiles>
cudaError_t launch_outer(nt_context *context, const OuterProduct &product, int64_t T) {
  constexpr int kBytes = kOuterStages * outer_stage_bytes(tiles);
  const int64_t wide_tiles = ceil_div(product.N, kOuterWide), narrow_tiles = ceil_div(product.R, 8 * tiles);
  const OuterSplit split =
      outer_split(context, T, wide_tiles * narrow_tiles, tiles, concurrent_blocks(context, kBytes));
  const dim3 grid(unsigned(wide_tiles), unsigned(narrow_tiles), unsigned(split.parts));
  return launch(lora_outer_kernel<tiles>, grid, dim3(kOuterThreads), size_t(kBytes), context->stream, product, split);
}

inline cudaError_t lora_outer(nt_context *context, const OuterProduct &product, int64_t T) {
  const int64_t width = ceil_div(product.R, ceil_div(product.R, kOuterNarrow));
  const auto run = width <= 16   ? launch_outer<2>
                   : width <= 32 ? launch_outer<4>
                   : width <= 48 ? launch_outer<6>
                                 : launch_outer<8>;
  return run(context, product, T);
}

}  // namespace
}  // namespace nt
