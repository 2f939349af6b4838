// Products with a linear layer's weight, dense or in NF4.
#pragma once
#include "../entry/weight.h"
#include "../nf4.h"
#include "matmul.h"

namespace nt {

// Up to so many rows a product costs the reading of its weight, and is faster by the kernels made for that (few_rows.h).
constexpr int64_t kFewRows = 8;

// c[T,out] = a[T,in]·Wᵀ + bias, and c[T,in] = a[T,out]·W; `accumulate` adds to what c holds. a has W's dtype.
// `rows`: an nt_rows.
int32_t times_weight_transposed(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                                const void *a, int64_t lda, const float *bias, bool accumulate, int64_t T,
                                int32_t rows = NT_ROWS_TOGETHER);
int32_t times_weight(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                     const void *a, int64_t lda, bool accumulate, int64_t T);

// Of weights in NF4 (nf4.cpp, nf4_panels.cpp): destination[n] = the values,
int32_t nf4_dequantize(nt_context *context, void *destination, int32_t dtype, const nt_nf4 &nf4, int64_t n);
// scratch = W, or its transpose, as panels (matmul.h) or as tiles (amx_packing.h), where this can be done,
bool nf4_makes_panels(const nt_weight *weight);
void nf4_panels(nt_context *context, const nt_weight *weight, bool transposed, bool tiles);
// and values begin … end − 1 of W, counted row by row, on the calling thread: returns where the first lies. `to` has room
// for kNf4Beside more, which share blocks with them.
constexpr int64_t kNf4Beside = 2 * NT_NF4_BLOCK;
const void *nf4_values(void *to, const nt_weight *weight, int64_t begin, int64_t end);
// The same for whole rows, and the memory that they take.
const void *nf4_rows(void *to, const nt_weight *weight, int64_t begin, int64_t end);
int64_t nf4_rows_bytes(const nt_weight *weight, int64_t rows);

}  // namespace nt
