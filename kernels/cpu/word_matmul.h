// Products by the instructions for vectors, with a low-rank term in the same sum.
#pragma once
#include "low_rank_term.h"
#include "matmul.h"

namespace nt {

// With at least this many rows it is faster than oneDNN, where that can multiply the operands as they are.
constexpr int64_t kWordLeastRows = 256;
// R up to which the term is taken into the sum.
constexpr int64_t kMostLowRank = 192;

// Whether products of this many rows in `dtype` are computed here (matmul.cpp).
bool words_multiply(nt_context *context, int32_t dtype, int64_t rows);

// How many threads pack the same columns of b in such a product, as each takes some of the rows. `rank`: the low-rank term's R.
int64_t threads_that_pack(nt_context *context, const Product &product, int64_t rank);

// matmul (matmul.h) with the term added to the sum, operands of one dtype. An element of c has the same bits whatever the
// number of rows, columns and threads: its sum goes through k from first to last, one product after the other.
int32_t word_matmul(nt_context *context, const Product &product, const LowRankTerm &term);

}  // namespace nt
