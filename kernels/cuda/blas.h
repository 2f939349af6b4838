// Matrix products by cuBLASLt: float32 sums, the same bits for the same shapes, operands and device.
#pragma once
#include "../entry/weight.h"
#include "../matrix.h"
#include "context.h"

namespace nt {

// c[m,n] = alpha · a[m,k]·b[k,n] + bias[n] (float32 or null), added to what c holds when `accumulate`. a and b have one
// dtype, c that or float32; sums in float32. bf16 results of a product with a bias take the bias rounded to bf16.
struct Product {
  int64_t m, n, k;
  Matrix a, b;
  void *c;
  int32_t c_dtype;
  int64_t ldc;
  const float *bias = nullptr;
  bool accumulate = false;
  float alpha = 1;
  bool is_tile = false;  // matmul_rows's
};

// Uses the context's workspace.
int32_t matmul(nt_context *context, const Product &product);

// The same where `rows` (an nt_rows) says what a row of c may depend on (row_tiles.cu).
int32_t matmul_rows(nt_context *context, const Product &product, int32_t rows);

// The same by a kernel of our own, one thread an element: for what cuBLASLt has no algorithm for, and as its check.
int32_t matmul_plain(nt_context *context, const Product &product);

// Opens cuBLASLt for this context: NT_UNSUPPORTED with a remedy where it is not found.
int32_t blas_create(nt_context *context);
void blas_destroy(nt_context *context);

// With NEFTUNE_TUNE_MATMUL=1: the algorithms that were chosen so far as a text, as far as it fits into `size`, and how long
// it is (0 without); and such a text to go by from here on. NT_UNSUPPORTED where it is another library's or device's.
int64_t blas_choices(nt_context *context, char *text, int64_t size);
int32_t blas_use_choices(nt_context *context, const char *text);

// Writes {"path": …, "version": "13.0.2", "looked": [places in order]} with a final NUL: where cuBLASLt is, without
// using it. Not found or not to be opened: path and version are null and "problem" has the loader's words (or "").
// Gives the bytes needed; what does not fit into `size` is not written.
int64_t blas_find(char *json, int64_t size);

}  // namespace nt

// cuBLASLt takes a weight as checkpoints store it, and an NF4 weight after it has been expanded, which each product does
// anew.
namespace nt {

// Of NF4 weights (nf4.cu, nf4_product.cu): scratch = the values,
int32_t nf4_expand(nt_context *context, const nt_weight *weight);
// whether a product c = a·Wᵀ of few rows can be made straight from the codes, and that product.
bool nf4_takes_rows(const nt_weight *weight, const void *a, int64_t lda);
int32_t nf4_few_rows(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc, const void *a,
                     int64_t lda, const float *bias, bool accumulate, int64_t T);

// The same with the weight in bf16 (bf16_product.cu).
bool bf16_takes_rows(const nt_weight *weight, const void *a, int64_t lda);
int32_t bf16_few_rows(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                       const void *a, int64_t lda, const float *bias, bool accumulate, int64_t T);

// The weight as a matrix in memory: an NF4 weight's scratch holds it until the next product of any of them.
inline int32_t expanded(nt_context *context, const nt_weight *weight, const void **data) {
  *data = weight->scratch == nullptr ? weight->data : weight->scratch;
  return weight->scratch == nullptr ? int32_t(NT_OK) : nf4_expand(context, weight);
}

// c[T,out] = a[T,in]·Wᵀ + bias and c[T,in] = a[T,out]·W; `accumulate` adds to what c holds. a has W's dtype. few_rows.h
// says when few rows have kernels of their own.
int32_t times_weight_transposed(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                                const void *a, int64_t lda, const float *bias, bool accumulate, int64_t T,
                                int32_t rows = NT_ROWS_TOGETHER);
inline int32_t times_weight(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                            const void *a, int64_t lda, bool accumulate, int64_t T) {
  const void *data;
  const int32_t status = expanded(context, weight, &data);
  if (status != NT_OK) return status;
  return matmul(context, {T, weight->in, weight->out, as_stored(a, weight->dtype, lda),
                          as_stored(data, weight->dtype, weight->ld), c, c_dtype, ldc, nullptr, accumulate});
}

}  // namespace nt
