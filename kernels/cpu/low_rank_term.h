// What a low-rank (LoRA) adapter adds to a product.
#pragma once
#include "../neftune.h"

namespace nt {

// left[m, R] · right[R, n], stored as the product's operands are: `whole` is right [rank, n], R = rank; or right is zero
// outside of blocks, B of a LoRA each, whose transposes [rank, rows] stand at rows `column` … column + rank and columns
// row … row + rows of it.
struct LowRankTerm {
  const void *left = nullptr;
  int64_t ld = 0, rank = 0;
  const void *whole = nullptr;
  const nt_lora_block *blocks = nullptr;
  int64_t count = 0;

  // R
  int64_t width() const {
    int64_t end = whole == nullptr ? 0 : rank;
    for (int64_t i = 0; i < count; i++) end = blocks[i].column + rank > end ? blocks[i].column + rank : end;
    return end;
  }
};

}  // namespace nt
