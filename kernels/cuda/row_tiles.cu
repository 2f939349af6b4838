// Products by cuBLASLt in which a row of c has the same bits whatever rows are beside it, and however many: which algorithm
// cuBLASLt takes, and so the order of the sums, follows from the number of rows; here every product has `tile` of them,
// laid out and aligned alike. The rows at the end go through memory of the context's, as the first rows of a tile.
#include "../entry/entry.h"
#include "blas.h"
#include "few_rows.h"

namespace nt {
namespace {

// So many take about as long to multiply as the weight takes to read, on an H100: in bf16 (690 TFLOP/s to 3 TB/s), and
// where few rows come without a kernel of their own, mostly in float32 (60 TFLOP/s).
constexpr int64_t kTileRows = 256, kFewTileRows = 32;
constexpr int64_t kAlignment = 256;

// Copies rows, `distance` bytes apart on both sides.
int32_t copy_rows(nt_context *context, void *to, const void *from, int64_t rows, int64_t distance, int64_t bytes) {
  const Watched watched(context->stream, moved("copy", 2 * rows * bytes));
  NT_CUDA(cudaMemcpy2DAsync(to, size_t(distance), from, size_t(distance), size_t(bytes), size_t(rows),
                            cudaMemcpyDeviceToDevice, context->stream),
          "copying a tile's rows");
  return NT_OK;
}

// Makes the context's memory for a tile that large; cudaFree waits for what still uses the old one.
int32_t reserve_tile(nt_context *context, int64_t bytes) {
  if (context->tile_bytes >= bytes) return NT_OK;
  if (context->tile != nullptr) cudaFree(context->tile);
  context->tile = nullptr;
  context->tile_bytes = 0;
  NT_CUDA(cudaMalloc(&context->tile, size_t(bytes)), "memory for a tile of rows");
  // Products read all of it, also what no rows have been copied to yet.
  NT_CUDA(cudaMemsetAsync(context->tile, 0, size_t(bytes), context->stream), "a tile of rows");
  context->tile_bytes = bytes;
  return NT_OK;
}

// The product's m rows as the first of a tile; what lies behind them does not matter. Rows lie as far apart and as aligned
// as in the product itself.
int32_t part_of_tile(nt_context *context, const Product &product, int64_t tile) {
  const int64_t a_distance = product.a.row * size_of(product.a.dtype);
  const int64_t c_distance = product.ldc * size_of(product.c_dtype);
  const auto offset = [](const void *p) { return int64_t(reinterpret_cast<uintptr_t>(p) % kAlignment); };
  const int64_t a_bytes = ceil_div(tile * a_distance + offset(product.a.data), kAlignment) * kAlignment;
  NT_TRY(reserve_tile(context, a_bytes + tile * c_distance + offset(product.c)));
  char *const memory = static_cast<char *>(context->tile);
  char *const a = memory + offset(product.a.data), *const c = memory + a_bytes + offset(product.c);
  const int64_t c_bytes = product.n * size_of(product.c_dtype);
  NT_TRY(copy_rows(context, a, product.a.data, product.m, a_distance, product.k * size_of(product.a.dtype)));
  if (product.accumulate) NT_TRY(copy_rows(context, c, product.c, product.m, c_distance, c_bytes));
  Product whole = product;
  whole.m = tile;
  whole.a.data = a;
  whole.c = c;
  NT_TRY(matmul(context, whole));
  return copy_rows(context, product.c, c, product.m, c_distance, c_bytes);
}

}  // namespace

int32_t matmul_rows(nt_context *context, const Product &product, int32_t rows) {
  if (rows == NT_ROWS_TOGETHER) return matmul(context, product);
  const int64_t tile = rows == NT_ROWS_EACH ? kFewTileRows : kTileRows;
  Product part = product;
  part.is_tile = true;
  for (int64_t left = product.m; left > 0; left -= part.m) {
    part.m = left < tile ? left : tile;
    NT_TRY(part.m < tile ? part_of_tile(context, part, tile) : matmul(context, part));
    part.a.data = columns_from(part.a.data, part.a.dtype, part.m * part.a.row);
    part.c = columns_from(part.c, part.c_dtype, part.m * part.ldc);
  }
  return NT_OK;
}

int32_t times_weight_transposed(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                                const void *a, int64_t lda, const float *bias, bool accumulate, int64_t T,
                                int32_t rows) {
  if (rows == NT_ROWS_EACH || (rows == NT_ROWS_TOGETHER && T <= kFewRows)) {
    if (weight->scratch != nullptr ? nf4_takes_rows(weight, a, lda) : bf16_takes_rows(weight, a, lda))
      return (weight->scratch != nullptr ? nf4_few_rows : bf16_few_rows)(context, weight, c, c_dtype, ldc, a, lda, bias,
                                                                          accumulate, T);
  }
  const void *data;
  NT_TRY(expanded(context, weight, &data));
  return matmul_rows(context,
                     {T, weight->out, weight->in, as_stored(a, weight->dtype, lda),
                      transposed(data, weight->dtype, weight->ld), c, c_dtype, ldc, bias, accumulate},
                     rows);
}

}  // namespace nt
