// The block-diagonal B of stacked projections, as linear_forward gets it.
#pragma once
#include "check.h"

namespace nt {

// Blocks ascend by row without overlap inside [0, out), and their columns of u lie inside its rows.
inline int32_t check_lora_blocks(const char *op, const void *u, int64_t ldu, const nt_lora_block *blocks,
                                 int64_t count, int64_t rank, int64_t out) {
  if (count == 0) return NT_OK;
  NT_CHECK(count > 0 && rank > 0 && u != nullptr && blocks != nullptr,
           "%s: %lld LoRA blocks of rank %lld need u and B", op, (long long)count, (long long)rank);
  int64_t row = 0;
  for (int64_t i = 0; i < count; i++) {
    const nt_lora_block &block = blocks[i];
    NT_CHECK(block.b != nullptr && block.row >= row && block.rows >= 0 && block.row + block.rows <= out,
             "%s: LoRA block %lld at rows %lld + %lld overlaps another or leaves the weight's %lld rows", op,
             (long long)i, (long long)block.row, (long long)block.rows, (long long)out);
    NT_CHECK(block.column >= 0 && block.column + rank <= ldu,
             "%s: columns %lld + %lld do not fit into u's row distance %lld", op, (long long)block.column,
             (long long)rank, (long long)ldu);
    row = block.row + block.rows;
  }
  return NT_OK;
}

}  // namespace nt
