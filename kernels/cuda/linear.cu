// Linear layers with an optional low-rank (LoRA) term: y = x·Wᵀ + bias + u·Bᵀ, dx = dy·W + g·A, dW += dyᵀ·x.
//
// The low-rank term is written first and cuBLASLt adds the base product to it (beta = 1) before it rounds: in bf16
// what is rounded in between is the small term alone. It costs a write and a read of y. A bias rides in the
// product's epilogue.
#include "../entry/entry.h"
#include "blas.h"
#include "lora_up.h"

namespace nt {
namespace {

// y[T, begin … end] = 0, one thread an element.
template <class T>
__global__ __launch_bounds__(256, 4) void clear_columns_kernel(T *y, int64_t ldy, int64_t rows, int64_t begin,
                                                               int64_t end) {
  const int64_t j = begin + int64_t(blockIdx.x) * 32 + (threadIdx.x & 31);
  if (j >= end) return;
  for (int64_t t = int64_t(blockIdx.y) * 8 + (threadIdx.x >> 5); t < rows; t += int64_t(gridDim.y) * 8)
    y[t * ldy + j] = from_float<T>(0.0f);
}

int32_t clear_columns(nt_context *context, void *y, int32_t dtype, int64_t ldy, int64_t rows, int64_t begin,
                      int64_t end) {
  if (begin >= end) return NT_OK;
  const int64_t row_blocks = ceil_div(rows, 8);
  const dim3 grid(unsigned(ceil_div(end - begin, 32)), unsigned(row_blocks < 4096 ? row_blocks : 4096));
  if (dtype == NT_F32) {
    NT_CUDA(launch(clear_columns_kernel<float>, grid, dim3(256), 0, context->stream, static_cast<float *>(y), ldy,
                   rows, begin, end),
            "linear_forward");
  } else {
    NT_CUDA(launch(clear_columns_kernel<bf16>, grid, dim3(256), 0, context->stream, static_cast<bf16 *>(y), ldy, rows,
                   begin, end),
            "linear_forward");
  }
  return NT_OK;
}

bool can_up(int32_t dtype, void *y, int32_t y_dtype, int64_t ldy, const void *u, int64_t ldu,
            const nt_lora_block *blocks, int64_t count, int64_t rank, int64_t T, int64_t out) {
  bool can = dtype == NT_BF16 && out % 8 == 0 && can_lora_up(rank, y, y_dtype, ldy, u, ldu, T);
  for (int64_t i = 0; i < count && can; i++)
    can = blocks[i].row % 8 == 0 && blocks[i].rows % 8 == 0 && blocks[i].column % 8 == 0 &&
          aligned16(blocks[i].b);
  return can;
}

// y[T,out] = u·Bᵀ, zeros where no block is.
int32_t low_rank_forward(nt_context *context, int32_t dtype, void *y, int32_t y_dtype, int64_t ldy, const void *u,
                         int64_t ldu, const nt_lora_block *blocks, int64_t count, int64_t rank, int64_t T, int64_t out,
                         int32_t rows) {
  const bool up = can_up(dtype, y, y_dtype, ldy, u, ldu, blocks, count, rank, T, out);
  LowRankSegments segments = {};
  const auto flush = [&]() -> int32_t {
    const auto run = y_dtype == NT_F32 ? lora_up<float, false> : lora_up<bf16, false>;
    NT_CUDA(run(context, y, ldy, u, ldu, &segments, rank, rank, T, false), "linear_forward");
    segments.count = 0;
    return NT_OK;
  };
  int64_t row = 0;  // rows of W up to here have their low-rank term in y
  for (int64_t i = 0; i <= count; i++) {
    const nt_lora_block block = i < count ? blocks[i] : nt_lora_block{nullptr, out, 0, 0};
    int32_t status = NT_OK;
    if (up) {
      if (row < block.row) segments.segment[segments.count++] = {nullptr, row, block.row, 0, 0};
      if (block.rows > 0)
        segments.segment[segments.count++] = {static_cast<const bf16 *>(block.b), block.row, block.row + block.rows,
                                              block.column, 0};
      if (i == count || segments.count >= 2 * kLowRankBlocks) status = flush();
    } else {
      status = clear_columns(context, y, y_dtype, ldy, T, row, block.row);
      if (status == NT_OK && block.rows > 0)
        status = matmul_rows(context,
                             {T, block.rows, rank, as_stored(columns_from(u, dtype, block.column), dtype, ldu),
                              transposed(block.b, dtype, rank), columns_from(y, y_dtype, block.row), y_dtype, ldy},
                             rows);
    }
    if (status != NT_OK) return status;
    row = block.row + block.rows;
  }
  return NT_OK;
}

// dx[T,in] = g[T,rank]·A[rank,in], added to what dx holds when `accumulate`.
int32_t low_rank_backward(nt_context *context, int32_t dtype, void *dx, int64_t lddx, const void *g, int64_t ldg,
                          const void *a, int64_t rank, bool accumulate, int64_t T, int64_t in) {
  if (dtype == NT_BF16 && in % 8 == 0 && aligned16(a) && can_lora_up(rank, dx, dtype, lddx, g, ldg, T)) {
    LowRankSegments segments = {};
    segments.segment[segments.count++] = {static_cast<const bf16 *>(a), 0, in, 0, 0};
    NT_CUDA((lora_up<bf16, true>(context, dx, lddx, g, ldg, &segments, in, rank, T, accumulate)),
            "linear_backward_input");
    return NT_OK;
  }
  return matmul(context, {T, in, rank, as_stored(g, dtype, ldg), as_stored(a, dtype, in), dx, dtype, lddx, nullptr,
                          accumulate});
}

int32_t linear_forward(nt_context *context, const nt_weight *weight, void *y, int32_t y_dtype, int64_t ldy,
                       const void *x, int64_t ldx, const float *bias, const void *u, int64_t ldu,
                       const nt_lora_block *blocks, int64_t count, int64_t rank, int64_t T, int32_t rows) {
  if (count > 0)
    NT_TRY(low_rank_forward(context, weight->dtype, y, y_dtype, ldy, u, ldu, blocks, count, rank, T, weight->out,
                            rows));
  return times_weight_transposed(context, weight, y, y_dtype, ldy, x, ldx, bias, count > 0, T, rows);
}

int32_t linear_backward_input(nt_context *context, const nt_weight *weight, void *dx, int64_t lddx, const void *dy,
                              int64_t lddy, const void *g, int64_t ldg, const void *a, int64_t rank, bool accumulate,
                              int64_t T) {
  if (rank > 0)
    NT_TRY(low_rank_backward(context, weight->dtype, dx, lddx, g, ldg, a, rank, accumulate, T, weight->in));
  return times_weight(context, weight, dx, weight->dtype, lddx, dy, lddy, accumulate || rank > 0, T);
}

constexpr int kSumThreads = 256;
constexpr int64_t kSumRows = 64;     // at least, of a partial sum
constexpr int64_t kSumParts = 128;   // at most

// partial[part, j] = Σ of x[t, j] over the part's rows: a block has 32 columns, warp w every eighth row from w on; the
// warps' sums are added in order.
template <class T>
__global__ __launch_bounds__(kSumThreads, 4) void column_sum_part_kernel(float *partial, const T *x, int64_t ldx,
                                                                         int64_t rows, int64_t columns,
                                                                         int64_t rows_a_part) {
  NT_SHARED(float, sums, [8][32]);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int64_t j = int64_t(blockIdx.x) * 32 + lane, begin = int64_t(blockIdx.y) * rows_a_part;
  const int64_t end = begin + rows_a_part < rows ? begin + rows_a_part : rows;
  float sum = 0;
  if (j < columns)
    for (int64_t t = begin + warp; t < end; t += 8) sum += to_float(x[t * ldx + j]);
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || j >= columns) return;
  for (int w = 1; w < 8; w++) sum += sums[w][lane];
  partial[blockIdx.y * columns + j] = sum;
}

// destination[j] += Σ_part partial[part, j], in order.
__global__ __launch_bounds__(kSumThreads, 4) void column_sum_kernel(float *destination, const float *partial,
                                                                    int64_t columns, int64_t parts) {
  const int64_t j = int64_t(blockIdx.x) * kSumThreads + threadIdx.x;
  if (j >= columns) return;
  float sum = 0;
  for (int64_t part = 0; part < parts; part++) sum += partial[part * columns + j];
  destination[j] += sum;
}

int32_t add_column_sums(nt_context *context, int32_t dtype, float *destination, const void *x, int64_t ldx,
                        int64_t rows, int64_t columns) {
  auto *partial = static_cast<float *>(context->workspace);
  const int64_t room = context->workspace_bytes / (columns * 4);
  NT_CHECK(room > 0, "linear_backward_weight: %lld columns of a bias", (long long)columns);
  int64_t parts = ceil_div(rows, kSumRows);
  parts = parts < kSumParts ? parts : kSumParts;
  parts = parts < room ? parts : room;
  const int64_t rows_a_part = ceil_div(rows, parts);
  const dim3 grid(unsigned(ceil_div(columns, 32)), unsigned(parts));
  if (dtype == NT_F32) {
    NT_CUDA(launch(column_sum_part_kernel<float>, grid, dim3(kSumThreads), 0, context->stream, partial,
                   static_cast<const float *>(x), ldx, rows, columns, rows_a_part),
            "linear_backward_weight");
  } else {
    NT_CUDA(launch(column_sum_part_kernel<bf16>, grid, dim3(kSumThreads), 0, context->stream, partial,
                   static_cast<const bf16 *>(x), ldx, rows, columns, rows_a_part),
            "linear_backward_weight");
  }
  NT_CUDA(launch(column_sum_kernel, dim3(unsigned(ceil_div(columns, kSumThreads))), dim3(kSumThreads), 0,
                 context->stream, destination, partial, columns, parts),
          "linear_backward_weight");
  return NT_OK;
}

// dweight[out,in] += dyᵀ·x.
int32_t add_outer_product(nt_context *context, int32_t dtype, float *dweight, const void *dy, int64_t lddy,
                          const void *x, int64_t ldx, int64_t T, int64_t out, int64_t in) {
  return matmul(context, {out, in, T, transposed(dy, dtype, lddy), as_stored(x, dtype, ldx), dweight, NT_F32, in,
                          nullptr, true});
}

// Training folds groups into one matrix (src/model/fold.ts).
bool forward_takes_stack(nt_context *, const nt_weight *, const nt_lora_block *, int64_t, int64_t, int64_t, int32_t) {
  return false;
}
bool backward_takes_stack(nt_context *, const nt_weight *, int64_t, int64_t) { return false; }

}  // namespace
}  // namespace nt

#include "../entry/linear.h"
