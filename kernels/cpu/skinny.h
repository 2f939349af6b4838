// Products with one side as narrow as a LoRA rank (up to a few hundred), where oneDNN is far from its rate: its tiles
// are made for large sides, and here reading and writing the long operand once is what costs.
//
// Each takes float32 or bf16 operands, sums in float32, and is split over threads so that every output element is
// summed by one thread in one order.
#pragma once
#include "matmul.h"

namespace nt {

// c[T,N] = p[T,r] · q[r,N], added to what c holds when `accumulate`. p, q: dtype; c: c_dtype.
int32_t rank_product(nt_context *context, int32_t dtype, void *c, int32_t c_dtype, int64_t ldc, const void *p,
                     int64_t ldp, const Matrix &q, int64_t T, int64_t N, int64_t r, bool accumulate);

// c[T,R] = scale · x[T,K] · q[K,R].
int32_t narrow_product(nt_context *context, int32_t dtype, void *c, int64_t ldc, const void *x, int64_t ldx,
                       const Matrix &q, float scale, int64_t T, int64_t R, int64_t K);

// c[R,N] (float32, dense; [N,R] when c_transposed) += pᵀ[R,T] · q[T,N].
int32_t outer_product(nt_context *context, int32_t dtype, float *c, bool c_transposed, const void *p, int64_t ldp,
                      const void *q, int64_t ldq, int64_t T, int64_t R, int64_t N);

}  // namespace nt
