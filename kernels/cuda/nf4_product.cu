// Products of few rows with an NF4 weight: they read its codes.
#include "blas.h"
#include "few_rows.h"
#include "nf4.h"

namespace nt {
namespace {

// Eight weights are a word of codes.
template <int dtype, int wanted>
struct Nf4Rows {
  static constexpr int kOutputs = 2, kMostRows = 4;
  static constexpr double kBytes = 0.5 + 1.0 / kNf4Block;  // a code, and a byte a block for its scale
  static constexpr int blocks(int) { return 6; }
  const uint32_t *codes;
  Nf4Absmax absmax;

  __device__ __forceinline__ static void begin(float *table) { load_codebook(table); }
  __device__ __forceinline__ void load(float (&weight)[kCodesAWord], const float *table, int64_t word) const {
    const float top = block_absmax(absmax, word * kCodesAWord / kNf4Block);
    word_values<dtype, wanted>(weight, table, __ldcs(codes + word), top);
  }
};
static_assert(kFewWord == kCodesAWord, "a word of codes is what a thread takes at once");

template <class T, int dtype>
cudaError_t run(nt_context *context, const FewRows &p, const nt_weight *weight) {
  const Nf4Rows<dtype, sizeof(T) == 2 ? NT_BF16 : NT_F32> source = {
      reinterpret_cast<const uint32_t *>(weight->nf4.codes), absmax_of(weight->nf4, weight->out * weight->in)};
  return few_rows<T>(context, p, source);
}

}  // namespace

bool nf4_takes_rows(const nt_weight *weight, const void *a, int64_t lda, int64_t T) {
  return T <= kFewRows && weight->in % kCodesAWord == 0 && aligned16(a) && lda * size_of(weight->dtype) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(weight->nf4.codes) % 4 == 0;
}

int32_t nf4_few_rows(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc, const void *a,
                     int64_t lda, const float *bias, bool accumulate, int64_t T) {
  const FewRows p = {c, ldc, a, lda, bias, weight->out, weight->in, int(T), c_dtype == NT_F32, accumulate};
  cudaError_t status;
  if (weight->dtype == NT_BF16) {
    status = weight->nf4.dtype == NT_F16 ? run<bf16, NT_F16>(context, p, weight) : run<bf16, NT_BF16>(context, p, weight);
  } else {
    status = weight->nf4.dtype == NT_F32    ? run<float, NT_F32>(context, p, weight)
             : weight->nf4.dtype == NT_BF16 ? run<float, NT_BF16>(context, p, weight)
                                            : run<float, NT_F16>(context, p, weight);
  }
  NT_CUDA(status, "linear_forward");
  return NT_OK;
}

}  // namespace nt
