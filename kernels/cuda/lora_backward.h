// The first half of LoRA's backward pass, for all projections of a stack in one launch: g[T,R] = s·dy·B and dB += dyᵀ·u.
// Each reads dy once, 2N bytes a token, and neither needs the other, so blocks of both kinds run side by side.
#pragma once
#include "lora_down.h"
#include "lora_outer.h"

namespace nt {
namespace {

static_assert(kDownThreads == kOuterThreads && kDownColumns == kOuterNarrow, "one launch runs both");

// A projection, and the first of its blocks of either kind and of its tiles of dB; without dB it has none of these.
struct BackwardTarget {
  const bf16 *b;
  float *db;
  int64_t row, rows, column;
  int first_down, first_outer, first_tile;
};

constexpr int kBackwardTargets = 8;  // a launch
struct BackwardTargets {
  BackwardTarget target[kBackwardTargets];
  int count, down_blocks, outer_blocks, tiles;
};

// Blocks of g come first, as each walks over all columns of its projection; then those of dB, parts outermost.
template <int rows, int tiles>
__global__ __launch_bounds__(kDownThreads, 3)
    void lora_backward_kernel(bf16 *g, int64_t ldg, const bf16 *dy, int64_t lddy, const bf16 *u, int64_t ldu,
                              const BackwardTargets targets, int rank, float scale, const OuterSplit split) {
  NT_DYNAMIC_SHARED(memory);
  const int narrow_tiles = (rank + 8 * tiles - 1) / (8 * tiles);
  const int block = int(blockIdx.x), outer = block - targets.down_blocks;
  int i = 0;
  if (outer < 0) {
    while (i + 1 < targets.count && targets.target[i + 1].first_down <= block) i++;
    const BackwardTarget &target = targets.target[i];
    const int at = block - target.first_down;
    lora_down_block<rows, tiles, true>(memory, g + target.column, ldg, nullptr, 0, dy + target.row, lddy, target.b, rank,
                                       scale, split.T, target.rows, rank, int64_t(at / narrow_tiles) * rows,
                                       at % narrow_tiles * tiles * 8);
    return;
  }
  while (i + 1 < targets.count && targets.target[i + 1].first_outer <= outer) i++;
  const BackwardTarget &target = targets.target[i];
  const int wide_tiles = int((target.rows + kOuterWide - 1) / kOuterWide), at = outer - target.first_outer;
  const int part = at / (wide_tiles * narrow_tiles), tile = at % (wide_tiles * narrow_tiles);
  const OuterProduct product = {target.db,         rank, 1,   dy + target.row, lddy,
                                u + target.column, ldu,  target.rows, rank};
  lora_outer_block<tiles>(memory, product, split, target.first_tile + tile, part,
                          int64_t(tile % wide_tiles) * kOuterWide, int64_t(tile / wide_tiles) * tiles * 8);
}

template <int rows, int tiles>
cudaError_t launch_backward(nt_context *context, bf16 *g, int64_t ldg, const bf16 *dy, int64_t lddy, const bf16 *u,
                            int64_t ldu, BackwardTargets targets, int64_t rank, float scale, int64_t T) {
  constexpr int kDown = down_bytes(rows, tiles, true), kOuter = kOuterStages * outer_stage_bytes(tiles);
  constexpr int kBytes = kDown > kOuter ? kDown : kOuter;
  const int64_t narrow_tiles = ceil_div(rank, 8 * tiles), blocks = concurrent_blocks(context, kBytes);
  const auto tiles_of = [&](const BackwardTarget &target) {
    return target.db == nullptr ? 0 : int(ceil_div(target.rows, kOuterWide) * narrow_tiles);
  };
  for (int i = 0; i < targets.count; i++) {
    BackwardTarget &target = targets.target[i];
    target.first_down = targets.down_blocks;
    target.first_tile = targets.tiles;
    targets.down_blocks += int(ceil_div(T, rows) * narrow_tiles);
    targets.tiles += tiles_of(target);
  }
  // One wave where it can be. Where it cannot, those that come last are to be short beside it: a quarter of a wave each.
  const int64_t left = blocks - targets.down_blocks;
  const OuterSplit split = outer_split(context, T, targets.tiles, tiles, left >= targets.tiles ? left : 4 * blocks);
  for (int i = 0; i < targets.count; i++) {
    targets.target[i].first_outer = targets.outer_blocks;
    targets.outer_blocks += tiles_of(targets.target[i]) * split.parts;
  }
  return launch(lora_backward_kernel<rows, tiles>, dim3(unsigned(targets.down_blocks + targets.outer_blocks)),
                dim3(kDownThreads), size_t(kBytes), context->stream, g, ldg, dy, lddy, u, ldu, targets, int(rank), scale,
                split);
}

inline bool can_lora_backward(const void *g, int64_t ldg, const void *dy, int64_t lddy, const void *u, int64_t ldu,
                              const nt_lora_target *targets, int64_t count, int64_t rank, int64_t T) {
  for (int64_t i = 0; i < count; i++) {
    const nt_lora_target &target = targets[i];
    const auto at = [](const void *x, int64_t column) { return static_cast<const bf16 *>(x) + column; };
    const bf16 *own_dy = at(dy, target.row);
    if (!can_lora_down(at(g, target.column), ldg, own_dy, lddy, target.b, rank, T, target.rows, rank)) return false;
    if (target.db != nullptr &&
        !can_lora_outer(own_dy, lddy, at(u, target.column), ldu, target.rows, rank))
      return false;
  }
  return true;
}

inline cudaError_t lora_backward_fast(nt_context *context, void *g, int64_t ldg, const void *dy, int64_t lddy,
                                      const void *u, int64_t ldu, const nt_lora_target *targets, int64_t count,
                                      int64_t rank, float scale, int64_t T) {
  const int64_t narrow_tiles = ceil_div(rank, kDownColumns), width = ceil_div(rank, narrow_tiles);
  for (int64_t i = 0; i < count;) {
    BackwardTargets some = {};
    for (; i < count && some.count < kBackwardTargets; i++)
      if (targets[i].rows > 0)
        some.target[some.count++] = {static_cast<const bf16 *>(targets[i].b), targets[i].db, targets[i].row,
                                     targets[i].rows, targets[i].column, 0, 0, 0};
    if (some.count == 0) break;
    const bool many = ceil_div(T, 64) * narrow_tiles * some.count >= context->multiprocessors;
    const auto run = width <= 16   ? (many ? launch_backward<64, 2> : launch_backward<32, 2>)
                     : width <= 32 ? (many ? launch_backward<64, 4> : launch_backward<32, 4>)
                     : width <= 48 ? (many ? launch_backward<64, 6> : launch_backward<32, 6>)
                                   : (many ? launch_backward<64, 8> : launch_backward<32, 8>);
    const cudaError_t status = run(context, static_cast<bf16 *>(g), ldg, static_cast<const bf16 *>(dy), lddy,
                                   static_cast<const bf16 *>(u), ldu, some, rank, scale, T);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace
}  // namespace nt
