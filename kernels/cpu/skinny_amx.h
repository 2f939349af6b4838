// skinny.h's products of bf16 with AMX: the same arguments. Callers ask amx_takes first.
#pragma once
#include "amx.h"
#include "matmul.h"

namespace nt {

// Whatever T is, so that a row's result does not depend on how many there are.
inline bool amx_takes(nt_context *context, int32_t dtype) { return kAmx && dtype == NT_BF16 && has_amx(context); }

// c_dtype is bf16 or float32.
int32_t rank_product_amx(nt_context *context, void *c, int32_t c_dtype, int64_t ldc, const bf16 *p, int64_t ldp,
                         const Matrix &q, int64_t T, int64_t N, int64_t r, bool accumulate);
// K is a multiple of 32.
int32_t narrow_product_amx(nt_context *context, bf16 *c, int64_t ldc, const bf16 *x, int64_t ldx, const Matrix &q,
                           float scale, int64_t T, int64_t R, int64_t K);
constexpr int64_t kAmxOuterSteps = 256;  // rows of the sum between visits to outer_product's c
int32_t outer_product_amx(nt_context *context, float *c, bool c_transposed, const bf16 *p, int64_t ldp, const bf16 *q,
                          int64_t ldq, int64_t T, int64_t R, int64_t N);

}  // namespace nt
