// Products of few rows with an NF4 weight, as in generation: they cost the reading of the weight, so they read codes.
#include "blas.h"
#include "nf4.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kOutputs = 2;      // rows of W a block: they share what is read of a
constexpr int kMostRows = 4;     // rows of a at once
constexpr int64_t kFewRows = 8;  // beyond, expanding the weight once costs less than reading it again

struct FewRows {
  void *c;
  int64_t ldc;
  const void *a;
  int64_t lda;
  const uint32_t *codes;
  Nf4Absmax absmax;
  const float *bias;
  int64_t out, in;
  int rows;
  bool c_is_f32, accumulate;
};

// c[t, j] = Σ_k a[t, k] · w[j, k] + bias[j] (+ c). A block has two rows j and up to ROWS rows t; its threads share k, a
// word of eight codes each at a time, so that a warp reads 128 bytes of codes and whole lines of a. Lanes are summed by
// shuffles, warps in order through shared memory. Bytes a weight: 0.52; rows of a come from L1.
template <int ROWS, class T, int dtype>
__global__ __launch_bounds__(kThreads, 6) void few_rows_kernel(FewRows p) {
  NT_SHARED(float, codebook, [16]);
  NT_SHARED(float, sums, [kWarps][kOutputs * ROWS]);
  load_codebook(codebook);
  const int64_t j = int64_t(blockIdx.x) * kOutputs, words = p.in / kCodesAWord;
  int64_t row[kOutputs];  // the last one again where there is no other
  NT_UNROLL
  for (int o = 0; o < kOutputs; o++) row[o] = (j + o < p.out ? j + o : j) * words;
  const T *a[ROWS];
  NT_UNROLL
  for (int t = 0; t < ROWS; t++) a[t] = static_cast<const T *>(p.a) + int64_t(t < p.rows ? t : 0) * p.lda;
  float sum[kOutputs][ROWS] = {};
  for (int64_t w = threadIdx.x; w < words; w += kThreads) {
    float weight[kOutputs][kCodesAWord];
    NT_UNROLL
    for (int o = 0; o < kOutputs; o++) {
      const float top = block_absmax(p.absmax, (row[o] + w) * kCodesAWord / kNf4Block);
      word_values<dtype, sizeof(T) == 2 ? NT_BF16 : NT_F32>(weight[o], codebook, __ldcs(p.codes + row[o] + w), top);
    }
    NT_UNROLL
    for (int t = 0; t < ROWS; t++) {
      float x[kCodesAWord];
      load_columns<true>(x, a[t] + w * kCodesAWord, kCodesAWord);
      NT_UNROLL
      for (int o = 0; o < kOutputs; o++) {
        NT_UNROLL
        for (int k = 0; k < kCodesAWord; k++) sum[o][t] = fmaf(weight[o][k], x[k], sum[o][t]);
      }
    }
  }
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  NT_UNROLL
  for (int o = 0; o < kOutputs; o++) {
    NT_UNROLL
    for (int t = 0; t < ROWS; t++) {
      const float x = warp_sum(sum[o][t]);
      if (lane == 0) sums[warp][o * ROWS + t] = x;
    }
  }
  __syncthreads();
  if (threadIdx.x >= kOutputs * ROWS) return;
  const int o = threadIdx.x / ROWS, t = threadIdx.x % ROWS;
  if (j + o >= p.out || t >= p.rows) return;
  float x = sums[0][threadIdx.x];
  NT_UNROLL
  for (int w = 1; w < kWarps; w++) x += sums[w][threadIdx.x];
  if (p.bias != nullptr) x += p.bias[j + o];
  const int64_t at = t * p.ldc + j + o;
  if (p.c_is_f32) {
    float *c = static_cast<float *>(p.c) + at;
    *c = p.accumulate ? x + *c : x;
  } else {
    bf16 *c = static_cast<bf16 *>(p.c) + at;
    *c = from_float<bf16>(p.accumulate ? x + to_float(*c) : x);
  }
}

template <class T, int dtype>
cudaError_t run(nt_context *context, const FewRows &p) {
  auto *kernel = p.rows == 1   ? few_rows_kernel<1, T, dtype>
                 : p.rows == 2 ? few_rows_kernel<2, T, dtype>
                               : few_rows_kernel<kMostRows, T, dtype>;
  return launch(kernel, dim3(unsigned(ceil_div(p.out, kOutputs))), dim3(kThreads), 0, context->stream, p);
}

}  // namespace

bool nf4_takes_rows(const nt_weight *weight, const void *a, int64_t lda, int64_t T) {
  return T <= kFewRows && weight->in % kCodesAWord == 0 && aligned16(a) && lda * size_of(weight->dtype) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(weight->nf4.codes) % 4 == 0;
}

int32_t nf4_few_rows(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc, const void *a,
                     int64_t lda, const float *bias, bool accumulate, int64_t T) {
  for (int64_t t = 0; t < T; t += kMostRows) {
    const FewRows p = {static_cast<char *>(c) + t * ldc * size_of(c_dtype),
                       ldc,
                       static_cast<const char *>(a) + t * lda * size_of(weight->dtype),
                       lda,
                       reinterpret_cast<const uint32_t *>(weight->nf4.codes),
                       absmax_of(weight->nf4, weight->out * weight->in),
                       bias,
                       weight->out,
                       weight->in,
                       int(T - t < kMostRows ? T - t : kMostRows),
                       c_dtype == NT_F32,
                       accumulate};
    cudaError_t status;
    if (weight->dtype == NT_BF16) {
      status = weight->nf4.dtype == NT_F16 ? run<bf16, NT_F16>(context, p) : run<bf16, NT_BF16>(context, p);
    } else {
      status = weight->nf4.dtype == NT_F32    ? run<float, NT_F32>(context, p)
               : weight->nf4.dtype == NT_BF16 ? run<float, NT_BF16>(context, p)
                                              : run<float, NT_F16>(context, p);
    }
    NT_CUDA(status, "linear_forward");
  }
  return NT_OK;
}

}  // namespace nt
