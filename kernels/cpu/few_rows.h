// Products of few rows with a dense weight, as in generation: they cost the reading of the weight, so it is read once,
// in the order it lies in memory.
#pragma once
#include "context.h"

namespace nt {

// c[T,out] = a[T,in]·w[out,in]ᵀ + bias, added to what c holds when `accumulate`. a, w: dtype, w dense. What a row of c
// becomes does not depend on the other rows, nor on how many there are.
int32_t few_rows_product(nt_context *context, int32_t dtype, void *c, int32_t c_dtype, int64_t ldc, const void *a,
                         int64_t lda, const void *w, const float *bias, bool accumulate, int64_t T, int64_t out,
                         int64_t in);

// The same in bf16 by AMX's tiles, in another order of sums: whether this machine and weight are for it, and the product.
bool amx_takes_rows(nt_context *context, int32_t dtype, int64_t out);
int32_t amx_rows_product(nt_context *context, void *c, int32_t c_dtype, int64_t ldc, const void *a, int64_t lda,
                         const void *w, const float *bias, bool accumulate, int64_t T, int64_t out, int64_t in);

}  // namespace nt
