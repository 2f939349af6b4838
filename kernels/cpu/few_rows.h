// Products of few rows with a weight, as in generation: they cost the reading of the weight, so it is read once, in the
// order it lies in memory.
#pragma once
#include "weight.h"

namespace nt {

// c[T,out] = a[T,in]·Wᵀ + bias, added to what c holds when `accumulate`. What a row of c becomes does not depend on the
// other rows, nor on how many there are.
int32_t few_rows_product(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                         const void *a, int64_t lda, const float *bias, bool accumulate, int64_t T);

// The same in bf16 by AMX's tiles, in another order of sums: whether this machine and weight are for it, and the product.
bool amx_takes_rows(nt_context *context, const nt_weight *weight);
int32_t amx_rows_product(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                         const void *a, int64_t lda, const float *bias, bool accumulate, int64_t T);

}  // namespace nt
