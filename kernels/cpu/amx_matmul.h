// Products of bf16 by AMX, with a low-rank term in the same sum.
#pragma once
#include "../neftune.h"
#include "amx.h"
#include "matmul.h"

namespace nt {

// left[m, R] · right[R, n]: `whole` is right [rank, n], R = rank; or right is zero outside of blocks, B of a LoRA each, whose
// transposes [rank, rows] stand at rows `column` … column + rank and columns row … row + rows of it.
struct LowRankTerm {
  const bf16 *left = nullptr;
  int64_t ld = 0, rank = 0;
  const bf16 *whole = nullptr;
  const nt_lora_block *blocks = nullptr;
  int64_t count = 0;

  // R
  int64_t width() const {
    int64_t end = whole == nullptr ? 0 : rank;
    for (int64_t i = 0; i < count; i++) end = blocks[i].column + rank > end ? blocks[i].column + rank : end;
    return end;
  }
};

// With at least this many rows it is faster than oneDNN, which for few rows reads a weight as it lies.
constexpr int64_t kAmxLeastRows = 128;

// Whether products of this many rows in `dtype` are computed here.
inline bool amx_multiplies(nt_context *context, int32_t dtype, int64_t rows) {
  return kAmx && dtype == NT_BF16 && rows >= kAmxLeastRows && has_amx(context);
}

// A weight can be given as panels (matmul.h) where these need no padding.
inline bool amx_takes_panels(const Product &product) { return product.k % 32 == 0 && product.n % kPanel == 0; }

// matmul (matmul.h) with the term added to the sum; a is stored by rows.
int32_t amx_matmul(nt_context *context, const Product &product, const LowRankTerm &term);

}  // namespace nt
