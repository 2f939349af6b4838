#pragma once
#include "entry.h"

NT_API int32_t nt_copy_blocks(nt_context *context, const nt_copied_block *blocks, int64_t count) {
  NT_TRY(nt::check_count("copy_blocks", "count", count));
  NT_CHECK(count == 0 || blocks != nullptr, "copy_blocks: blocks must not be null");
  for (int64_t i = 0; i < count; i++) {
    const nt_copied_block &block = blocks[i];
    NT_CHECK(block.rows >= 0 && block.row_bytes >= 0 && block.distance >= block.row_bytes,
             "copy_blocks: block %lld has %lld rows of %lld bytes, %lld apart", (long long)i, (long long)block.rows,
             (long long)block.row_bytes, (long long)block.distance);
    NT_CHECK(block.rows * block.row_bytes == 0 || (block.destination != nullptr && block.source != nullptr),
             "copy_blocks: block %lld has no destination or no source", (long long)i);
  }
  return count == 0 ? NT_OK : nt::copy_blocks(context, blocks, count);
}
