// Blocks of rows from where they lie side by side to where they lie apart.
#include "context.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 256;
constexpr int kShares = 16;  // blocks of threads that a block of rows is shared among

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
  for (uint64_t index = global_thread(); index < total; index += kShares * kThreads) {
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

int32_t copy_blocks(nt_context *context, const nt_copied_block *blocks, int64_t count) {
  for (; count > 0; blocks += kMostBlocks, count -= kMostBlocks) {
    const int64_t some = count < kMostBlocks ? count : kMostBlocks;
    CopiedBlocks table = {};
    memcpy(table.block, blocks, size_t(some) * sizeof(nt_copied_block));
    auto *kernel = is_aligned(blocks, some, 16)  ? copy_blocks_kernel<uint4>
                   : is_aligned(blocks, some, 2) ? copy_blocks_kernel<uint16_t>
                                                 : copy_blocks_kernel<uint8_t>;
    NT_CUDA(launch(kernel, dim3(kShares, unsigned(some)), dim3(kThreads), 0, context->stream, table), "copy_blocks");
  }
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/copy_blocks.h"
