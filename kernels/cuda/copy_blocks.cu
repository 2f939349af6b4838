// Blocks of rows from where they lie side by side to where they lie apart.
#include "context.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 256;
// A block of rows is shared among as many blocks of threads as give each thread of the largest so many units, up to a limit.
constexpr int64_t kUnits = 4, kMostShares = 128;

// What a launch takes: a kernel's arguments have 4 KB.
constexpr int64_t kMostBlocks = 96;
struct CopiedBlocks {
  nt_copied_block block[kMostBlocks];
};

// Destination row r = source row r for the rows of block blockIdx.y, a unit a thread and step.
template <class Unit>
__global__ void __launch_bounds__(kThreads, 4) copy_blocks_kernel(const CopiedBlocks blocks) {
  const nt_copied_block &block = blocks.block[blockIdx.y];
  const uint32_t units = uint32_t(block.row_bytes / int64_t(sizeof(Unit)));
  const uint64_t total = uint64_t(block.rows) * units;
  const auto *source = static_cast<const Unit *>(block.source);
  for (uint64_t index = global_thread(); index < total; index += gridDim.x * kThreads) {
    const ChunkPlace place = chunk_place(index, units);
    auto *row = reinterpret_cast<Unit *>(static_cast<char *>(block.destination) + place.row * block.distance);
    row[place.chunk] = source[index];
  }
}

// Whether all addresses and sizes are multiples of `bytes`.
bool is_aligned(const nt_copied_block *blocks, int64_t count, uintptr_t bytes) {
  uintptr_t bits = 0;
  for (int64_t i = 0; i < count; i++) {
    const nt_copied_block &block = blocks[i];
    bits |= reinterpret_cast<uintptr_t>(block.destination) | reinterpret_cast<uintptr_t>(block.source) |
            uintptr_t(block.row_bytes) | uintptr_t(block.distance);
  }
  return (bits & (bytes - 1)) == 0;
}

int64_t shares_of(const nt_copied_block *blocks, int64_t count, int64_t unit_bytes) {
  int64_t most = 1;
  for (int64_t i = 0; i < count; i++) {
    const int64_t shares = ceil_div(blocks[i].rows * blocks[i].row_bytes, unit_bytes * kUnits * kThreads);
    if (shares > most) most = shares;
  }
  return most < kMostShares ? most : kMostShares;
}

int32_t copy_blocks(nt_context *context, const nt_copied_block *blocks, int64_t count) {
  for (; count > 0; blocks += kMostBlocks, count -= kMostBlocks) {
    const int64_t some = count < kMostBlocks ? count : kMostBlocks;
    CopiedBlocks table = {};
    memcpy(table.block, blocks, size_t(some) * sizeof(nt_copied_block));
    const int unit = is_aligned(blocks, some, 16) ? 16 : is_aligned(blocks, some, 2) ? 2 : 1;
    auto *kernel = unit == 16  ? copy_blocks_kernel<uint4>
                   : unit == 2 ? copy_blocks_kernel<uint16_t>
                               : copy_blocks_kernel<uint8_t>;
    const dim3 grid(unsigned(shares_of(blocks, some, unit)), unsigned(some));
    NT_CUDA(launch(kernel, grid, dim3(kThreads), 0, context->stream, table), "copy_blocks");
  }
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/copy_blocks.h"
