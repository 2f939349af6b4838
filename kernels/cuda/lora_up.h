// The wide side of a low-rank term, bf16 on tensor cores: y[T,N] = u[T,r]·Bᵀ for block-diagonal B, and dx[T,N] (+)=
// g[T,r]·A. With r of 8 to 128 it is a write of y and little else: 2N bytes a token (6N with float32 y, 4N where it
// adds), u's 2r read once for every 128 columns out of L2.
#pragma once
#include "context.h"
#include "rows.h"

namespace nt {

// Columns begin … end of y. b null: zeros. Otherwise row c − begin of b (columns of length ld = r) or, when
// k_outside, column c − begin of b (rows of length ld), times u's columns from `column` on.
struct LowRankSegment {
  const bf16 *b;
  int64_t begin, end, column;
  int64_t first_tile;
};

constexpr int kLowRankBlocks = 8;  // blocks a launch: with the gaps around them, 17 segments
struct LowRankSegments {
  LowRankSegment segment[2 * kLowRankBlocks + 1];
  int count;
};

constexpr int kUpRows = 128, kUpColumns = 128, kUpThreads = 128, kUpLargestRank = 128;

namespace {

__device__ __forceinline__ uint2 load_4(const bf16 *p) { return *reinterpret_cast<const uint2 *>(p); }
__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) { return (a & 0xFFFFu) | (b << 16); }
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) { return (a >> 16) | (b & 0xFFFF0000u); }

// y[t, c] = Σ_k u[t, column + k] · b(k, c) (+ y[t, c]), rounded once.
//
// A block has 128 rows × 128 columns of y, a warp 32 of the columns, whose part of b it holds in registers while it
// walks the rows 16 at a time. No shared memory: which k stands at which place of the matrix instruction is free as
// long as both operands agree, and so is which column. Lane (g, q) = (lane / 4, lane mod 4) takes k = 4q … 4q + 3 of
// every 16 (one 8-byte load for each row of u) and columns 4g … 4g + 3 of b as column g of four instructions; then
// its results are columns 8q … 8q + 7 of rows g and g + 8: whole 16-byte stores, 64 bytes of a row side by side.
// Blocks go from the last rows to the first, which the base product then finds in L2.
template <class Out, int steps, bool k_outside>
__global__ __launch_bounds__(kUpThreads, steps > 4 ? 3 : 4)
    void lora_up_kernel(Out *y, int64_t ldy, const bf16 *u, int64_t ldu, LowRankSegments segments, int64_t ld,
                        int rank, int64_t T, bool accumulate) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
  int s = 0;
  while (s + 1 < segments.count && segments.segment[s + 1].first_tile <= int64_t(blockIdx.x)) s++;
  const LowRankSegment segment = segments.segment[s];
  const int64_t base = segment.begin + (int64_t(blockIdx.x) - segment.first_tile) * kUpColumns + warp * 32;
  if (base >= segment.end) return;
  const bool some = segment.b != nullptr;

  uint32_t b[steps][4][2] = {};
  if (some && base + 4 * g < segment.end) {
    const int64_t column = base - segment.begin + 4 * g;
    NT_UNROLL
    for (int step = 0; step < steps; step++) {
      const int k = 16 * step + 4 * q;
      if (k >= rank) continue;
      if (k_outside) {
        const bf16 *from = segment.b + k * ld + column;
        const uint2 v0 = load_4(from), v1 = load_4(from + ld), v2 = load_4(from + 2 * ld), v3 = load_4(from + 3 * ld);
        b[step][0][0] = low_halves(v0.x, v1.x);
        b[step][0][1] = low_halves(v2.x, v3.x);
        b[step][1][0] = high_halves(v0.x, v1.x);
        b[step][1][1] = high_halves(v2.x, v3.x);
        b[step][2][0] = low_halves(v0.y, v1.y);
        b[step][2][1] = low_halves(v2.y, v3.y);
        b[step][3][0] = high_halves(v0.y, v1.y);
        b[step][3][1] = high_halves(v2.y, v3.y);
      } else {
        NT_UNROLL
        for (int j = 0; j < 4; j++) {
          const uint2 v = load_4(segment.b + (column + j) * ld + k);
          b[step][j][0] = v.x;
          b[step][j][1] = v.y;
        }
      }
    }
  }

  const bool inside = base + 8 * q < segment.end;
  const int64_t first = int64_t(gridDim.y - 1 - blockIdx.y) * kUpRows;
  for (int64_t row = first; row < first + kUpRows && row < T; row += 16) {
    float sums[4][4] = {};
    if (some) {
      NT_UNROLL
      for (int step = 0; step < steps; step++) {
        const int k = 16 * step + 4 * q;
        const bf16 *from = u + (row + g) * ldu + segment.column + k;
        const uint2 none = {0, 0};
        const uint2 upper = k < rank && row + g < T ? load_4(from) : none;
        const uint2 lower = k < rank && row + g + 8 < T ? load_4(from + 8 * ldu) : none;
        const uint32_t a[4] = {upper.x, lower.x, upper.y, lower.y};
        NT_UNROLL
        for (int j = 0; j < 4; j++) mma(sums[j], a, b[step][j][0], b[step][j][1]);
      }
    }
    NT_UNROLL
    for (int half = 0; half < 2; half++) {
      const int64_t t = row + g + 8 * half;
      if (t >= T || !inside) continue;
      Out *to = y + t * ldy + base + 8 * q;
      NT_UNROLL
      for (int part = 0; part < 8 / Pack<Out>::size; part++) {
        Pack<Out> pack = {};
        if (accumulate) pack = load_pack(to + part * Pack<Out>::size);
        NT_UNROLL
        for (int i = 0; i < Pack<Out>::size; i++) {
          const int c = part * Pack<Out>::size + i;
          const float value = sums[c & 3][2 * half + (c >> 2)];
          pack.x[i] = from_float<Out>(accumulate ? value + to_float(pack.x[i]) : value);
        }
        store_pack(to + part * Pack<Out>::size, pack);
      }
    }
  }
}

template <class Out, bool k_outside, int steps>
cudaError_t launch_up(nt_context *context, void *y, int64_t ldy, const bf16 *u, int64_t ldu,
                      const LowRankSegments &segments, int64_t tiles, int64_t ld, int rank, int64_t T,
                      bool accumulate) {
  return launch(lora_up_kernel<Out, steps, k_outside>, dim3(unsigned(tiles), unsigned(ceil_div(T, kUpRows))),
                dim3(kUpThreads), 0, context->stream, static_cast<Out *>(y), ldy, u, ldu, segments, ld, rank, T,
                accumulate);
}

// Whether the kernel can take these operands; segments are then multiples of 8 columns (the caller's part).
inline bool can_lora_up(int64_t rank, const void *y, int32_t y_dtype, int64_t ldy, const void *u, int64_t ldu,
                        int64_t T) {
  const int64_t per_pack = y_dtype == NT_F32 ? 4 : 8;
  return rank % 8 == 0 && rank <= kUpLargestRank && aligned16(y, u) && ldy % per_pack == 0 &&
         ldu % 8 == 0 && ceil_div(T, kUpRows) <= 65535;
}

// Fills in first_tile and launches.
template <class Out, bool k_outside>
cudaError_t lora_up(nt_context *context, void *y, int64_t ldy, const void *u, int64_t ldu, LowRankSegments *segments,
                    int64_t ld, int64_t rank, int64_t T, bool accumulate) {
  int64_t tiles = 0;
  for (int i = 0; i < segments->count; i++) {
    LowRankSegment &segment = segments->segment[i];
    segment.first_tile = tiles;
    tiles += ceil_div(segment.end - segment.begin, kUpColumns);
  }
  if (tiles == 0) return cudaSuccess;
  const auto *left = static_cast<const bf16 *>(u);
  const auto run = rank <= 16   ? launch_up<Out, k_outside, 1>
                   : rank <= 32 ? launch_up<Out, k_outside, 2>
                   : rank <= 64 ? launch_up<Out, k_outside, 4>
                                : launch_up<Out, k_outside, 8>;
  return run(context, y, ldy, left, ldu, *segments, tiles, ld, int(rank), T, accumulate);
}

}  // namespace
}  // namespace nt
