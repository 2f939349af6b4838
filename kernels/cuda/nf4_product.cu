// Products of few rows with an NF4 weight: they read its codes.
#include "blas.h"
#include "few_rows_mma.h"
#include "nf4.h"

namespace nt {
namespace {

constexpr double kNf4Bytes = 0.5 + 1.0 / kNf4Block;  // a code, and a byte a block for its scale

// float32: eight weights are a word of codes.
template <int dtype>
struct Nf4Rows {
  static constexpr int kOutputs = 2, kBlocks = 6;
  static constexpr double kBytes = kNf4Bytes;
  const uint32_t *codes;
  Nf4Absmax absmax;

  __device__ __forceinline__ static void begin(float *table) { load_codebook(table); }
  __device__ __forceinline__ void load(float (&weight)[kCodesAWord], const float *table, int64_t word) const {
    const float top = block_absmax(absmax, word * kCodesAWord / kNf4Block);
    word_values<dtype>(weight, table, __ldcs(codes + word), top);
  }
};
static_assert(kFewWord == kCodesAWord, "a word of codes is what a thread takes at once");

// bf16: sixteen weights are two words of codes, which lie in one block where rows are multiples of sixteen.
template <int dtype>
struct Nf4Runs {
  static constexpr double kBytes = kNf4Bytes;
  struct Run {
    uint2 codes;
    float top;
  };
  const uint8_t *codes;
  Nf4Absmax absmax;

  __device__ __forceinline__ static void begin(float *table) { load_codebook(table); }
  __device__ __forceinline__ void load(Run &run, int64_t at, int left) const {
    run = {make_uint2(0, 0), 0.0f};
    if (left <= 0) return;
    run.codes = __ldcs(reinterpret_cast<const uint2 *>(codes + at / 2));
    run.top = block_absmax(absmax, at / kNf4Block);
  }
  // Rounded to what was quantized and then to bf16, which is one rounding unless the former is float16.
  __device__ __forceinline__ static void words(uint32_t (&words)[8], const float *table, const Run &run) {
    NT_UNROLL
    for (int half = 0; half < 2; half++) {
      float values[kCodesAWord];
      word_values<dtype>(values, table, half == 0 ? run.codes.x : run.codes.y, run.top);
      NT_UNROLL
      for (int i = 0; i < 4; i++) words[4 * half + i] = pack_bf16(values[2 * i], values[2 * i + 1]);
    }
  }
};
static_assert(kRun == 2 * kCodesAWord, "two words of codes are what a lane takes at once");

}  // namespace

bool nf4_takes_rows(const nt_weight *weight, const void *a, int64_t lda) {
  const int64_t run = weight->dtype == NT_BF16 ? kRun : kFewWord;
  return weight->in % run == 0 && weight->in <= INT32_MAX / 2 && few_rows_aligned(weight->in, a, lda, weight->dtype) &&
         reinterpret_cast<uintptr_t>(weight->nf4.codes) % uintptr_t(run / 2) == 0;
}

int32_t nf4_few_rows(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc, const void *a,
                     int64_t lda, const float *bias, bool accumulate, int64_t T) {
  const FewRows p = {c, ldc, a, lda, bias, weight->out, weight->in, T, c_dtype == NT_F32, accumulate, 1};
  const uint8_t *codes = weight->nf4.codes;
  const auto *words = reinterpret_cast<const uint32_t *>(codes);
  const Nf4Absmax absmax = absmax_of(weight->nf4, weight->out * weight->in);
  cudaError_t status;
  if (weight->dtype == NT_BF16) {
    status = weight->nf4.dtype == NT_F16 ? few_rows_mma(context, p, Nf4Runs<NT_F16>{codes, absmax})
                                         : few_rows_mma(context, p, Nf4Runs<NT_F32>{codes, absmax});
  } else {
    status = weight->nf4.dtype == NT_F32    ? few_rows(context, p, Nf4Rows<NT_F32>{words, absmax})
             : weight->nf4.dtype == NT_BF16 ? few_rows(context, p, Nf4Rows<NT_BF16>{words, absmax})
                                            : few_rows(context, p, Nf4Rows<NT_F16>{words, absmax});
  }
  NT_CUDA(status, "linear_forward");
  return NT_OK;
}

}  // namespace nt
