// LoRA's own products: u = s·x·Aᵀ down, g = s·dy·B back, and the gradients of A and B. The products with u and g on
// the left belong to the linear layer (linear.cpp).
#include "parallel.h"
#include "skinny.h"
#include "vec.h"

namespace {

// destination[columns, rows] = source[rows, columns]ᵀ, both dense.
template <typename T>
void transpose(int threads, T *destination, const T *source, int64_t rows, int64_t columns) {
  nt::parallel_for(threads, rows, 1 + (1 << 14) / columns, [&](int64_t begin, int64_t end) {
    for (int64_t j = 0; j < columns; j++)
      for (int64_t i = begin; i < end; i++) destination[j * rows + i] = source[i * columns + j];
  });
}

// g[T,rank] = scale · dy[T,out]·B[out,rank].
int32_t project_back(nt_context *context, int32_t dtype, void *g, int64_t ldg, const void *dy, int64_t lddy,
                     const void *b, float scale, int64_t T, int64_t out, int64_t rank) {
  // Then `out` is the narrow side: a gradient that goes up through A.
  if (out < rank && scale == 1.0f)
    return nt::rank_product(context, dtype, g, dtype, ldg, dy, lddy, nt::as_stored(b, dtype, rank), T, rank, out,
                            false);
  void *bt = nt::scratch(context, out * rank * nt::size_of(dtype));
  if (bt == nullptr) return nt::fail(NT_OUT_OF_MEMORY, "lora_backward: no memory for Bᵀ of %lld columns", (long long)out);
  if (dtype == NT_F32) {
    transpose(context->threads, static_cast<float *>(bt), static_cast<const float *>(b), out, rank);
  } else {
    transpose(context->threads, static_cast<nt::bf16 *>(bt), static_cast<const nt::bf16 *>(b), out, rank);
  }
  nt::narrow_product(context, dtype, g, ldg, dy, lddy, bt, scale, T, rank, out);
  return NT_OK;
}

}  // namespace

NT_API int32_t nt_lora_forward(nt_context *context, int32_t dtype, void *u, const void *x, int64_t ldx,
                               const void *a, float scale, int64_t T, int64_t R, int64_t in) {
  NT_CHECK_DTYPE("lora_forward", dtype);
  NT_CHECK(T >= 0 && R >= 0 && in >= 0, "lora_forward: sizes must not be negative, got T %lld, R %lld, in %lld",
           (long long)T, (long long)R, (long long)in);
  NT_CHECK(ldx >= in, "lora_forward: rows of %lld elements do not fit into distance %lld", (long long)in,
           (long long)ldx);
  if (T == 0 || R == 0 || in == 0) return NT_OK;
  NT_CHECK(u != nullptr && x != nullptr && a != nullptr, "lora_forward: u, x or A is null");
  nt::narrow_product(context, dtype, u, R, x, ldx, a, scale, T, R, in);
  return NT_OK;
}

NT_API int32_t nt_lora_backward(nt_context *context, int32_t dtype, void *g, int64_t ldg, float *db, const void *dy,
                                int64_t lddy, const void *u, int64_t ldu, const void *b, float scale, int64_t T,
                                int64_t out, int64_t rank) {
  NT_CHECK_DTYPE("lora_backward", dtype);
  NT_CHECK(T >= 0 && rank >= 0 && out >= 0, "lora_backward: sizes must not be negative, got T %lld, out %lld, rank %lld",
           (long long)T, (long long)out, (long long)rank);
  NT_CHECK(ldg >= rank && lddy >= out && (db == nullptr || ldu >= rank),
           "lora_backward: rows of %lld, %lld, %lld elements do not fit into distances %lld, %lld, %lld",
           (long long)rank, (long long)out, (long long)rank, (long long)ldg, (long long)lddy, (long long)ldu);
  if (T == 0 || rank == 0 || out == 0) return NT_OK;
  NT_CHECK(g != nullptr && dy != nullptr && b != nullptr, "lora_backward: g, dy or B is null");
  NT_CHECK(db == nullptr || u != nullptr, "lora_backward: dB needs u");
  int32_t status = project_back(context, dtype, g, ldg, dy, lddy, b, scale, T, out, rank);
  if (status != NT_OK || db == nullptr) return status;
  return nt::outer_product(context, dtype, db, true, u, ldu, dy, lddy, T, rank, out);
}

NT_API int32_t nt_lora_backward_a(nt_context *context, int32_t dtype, float *da, const void *g, const void *x,
                                  int64_t ldx, int64_t T, int64_t R, int64_t in) {
  NT_CHECK_DTYPE("lora_backward_a", dtype);
  NT_CHECK(T >= 0 && R >= 0 && in >= 0, "lora_backward_a: sizes must not be negative, got T %lld, R %lld, in %lld",
           (long long)T, (long long)R, (long long)in);
  NT_CHECK(ldx >= in, "lora_backward_a: rows of %lld elements do not fit into distance %lld", (long long)in,
           (long long)ldx);
  if (T == 0 || R == 0 || in == 0) return NT_OK;
  NT_CHECK(da != nullptr && g != nullptr && x != nullptr, "lora_backward_a: dA, g or x is null");
  return nt::outer_product(context, dtype, da, false, g, R, x, ldx, T, R, in);
}
