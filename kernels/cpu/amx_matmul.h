// Products of bf16 by AMX, with a low-rank term in the same sum.
#pragma once
#include "amx.h"
#include "low_rank_term.h"
#include "matmul.h"

namespace nt {

// With at least this many rows it is faster than oneDNN, which for few rows reads a weight as it lies.
constexpr int64_t kAmxLeastRows = 128;

// Whether products of this many rows in `dtype` are computed here.
inline bool amx_multiplies(nt_context *context, int32_t dtype, int64_t rows) {
  return kAmx && dtype == NT_BF16 && rows >= kAmxLeastRows && has_amx(context);
}

// A weight can be given as tiles (amx_packing.h) where these need no padding.
inline bool amx_takes_tiles(const Product &product) { return product.k % (2 * kEdge) == 0 && product.n % (2 * kEdge) == 0; }

// matmul (matmul.h) with the term added to the sum; a is stored by rows.
int32_t amx_matmul(nt_context *context, const Product &product, const LowRankTerm &term);

}  // namespace nt
