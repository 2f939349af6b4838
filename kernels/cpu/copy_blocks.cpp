// Blocks of rows from where they lie side by side to where they lie apart.
#include <string.h>

#include "context.h"

namespace nt {
namespace {

int32_t copy_blocks(nt_context *, const nt_copied_block *blocks, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    const nt_copied_block &block = blocks[i];
    for (int64_t row = 0; row < block.rows; row++)
      memcpy(static_cast<char *>(block.destination) + row * block.distance,
             static_cast<const char *>(block.source) + row * block.row_bytes, size_t(block.row_bytes));
  }
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/copy_blocks.h"
