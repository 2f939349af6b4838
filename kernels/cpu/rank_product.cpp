// skinny.h's product with a short sum: where the kernels for many rows do not add it to their own (linear.cpp).
#include "skinny.h"
#include "skinny_amx.h"
#include "word_matmul.h"

namespace nt {

int32_t rank_product(nt_context *context, int32_t dtype, void *c, int32_t c_dtype, int64_t ldc, const void *p,
                     int64_t ldp, const Matrix &q, int64_t T, int64_t N, int64_t r, bool accumulate) {
  if (T <= 0 || N <= 0 || r <= 0) return NT_OK;
#ifdef __AMX_BF16__
  if (amx_takes(context, dtype))
    return rank_product_amx(context, c, c_dtype, ldc, static_cast<const bf16 *>(p), ldp, q, T, N, r, accumulate);
#endif
  return word_matmul(context, {T, N, r, as_stored(p, dtype, ldp), q, nullptr, c, c_dtype, ldc, nullptr, accumulate}, {});
}

}  // namespace nt
