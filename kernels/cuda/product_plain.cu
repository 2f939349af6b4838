// Products of any shape and alignment without tensor cores: what cuBLASLt's are checked against and what they leave to it.
#include "blas.h"

namespace nt {
namespace {

// c[m,n] = alpha · Σ_k a·b + bias (+ c), one thread an element, 32 columns × 8 rows a block; four partial sums.
template <class In, class Out>
__global__ __launch_bounds__(256, 4) void product_plain_kernel(Out *c, int64_t ldc, const In *a, int64_t a_row,
                                                               int64_t a_column, const In *b, int64_t b_row,
                                                               int64_t b_column, const float *bias, int64_t m,
                                                               int64_t n, int64_t k, float alpha, bool accumulate) {
  const int64_t j = int64_t(blockIdx.x) * 32 + threadIdx.x;
  if (j >= n) return;
  for (int64_t i = int64_t(blockIdx.y) * 8 + threadIdx.y; i < m; i += int64_t(gridDim.y) * 8) {
    const In *left = a + i * a_row, *right = b + j * b_column;
    float sum[4] = {};
    int64_t p = 0;
    for (; p + 4 <= k; p += 4) {
      NT_UNROLL
      for (int part = 0; part < 4; part++)
        sum[part] = fmaf(to_float(left[(p + part) * a_column]), to_float(right[(p + part) * b_row]), sum[part]);
    }
    for (; p < k; p++) sum[0] = fmaf(to_float(left[p * a_column]), to_float(right[p * b_row]), sum[0]);
    float value = alpha * ((sum[0] + sum[1]) + (sum[2] + sum[3]));
    if (bias != nullptr) value += bias[j];
    if (accumulate) value += to_float(c[i * ldc + j]);
    c[i * ldc + j] = from_float<Out>(value);
  }
}

template <class In, class Out>
cudaError_t launch_plain(nt_context *context, const Product &p) {
  const int64_t row_blocks = ceil_div(p.m, 8);
  const dim3 grid(unsigned(ceil_div(p.n, 32)), unsigned(row_blocks < 65535 ? row_blocks : 65535));
  const Watched watched(context->stream, {nullptr, "product_plain", int64_t(grid.x) * grid.y, 0, p.m, p.n, p.k,
                                          int32_t(sizeof(In)), int32_t(sizeof(Out)), p.accumulate});
  return enqueue(product_plain_kernel<In, Out>, grid, dim3(32, 8), 0, context->stream, static_cast<Out *>(p.c), p.ldc,
                 static_cast<const In *>(p.a.data), p.a.row, p.a.column, static_cast<const In *>(p.b.data), p.b.row,
                 p.b.column, p.bias, p.m, p.n, p.k, p.alpha, p.accumulate);
}

}  // namespace

int32_t matmul_plain(nt_context *context, const Product &p) {
  if (p.a.dtype == NT_F32) {
    NT_CUDA((launch_plain<float, float>(context, p)), "matmul");
  } else if (p.c_dtype == NT_F32) {
    NT_CUDA((launch_plain<bf16, float>(context, p)), "matmul");
  } else {
    NT_CUDA((launch_plain<bf16, bf16>(context, p)), "matmul");
  }
  return NT_OK;
}

}  // namespace nt
