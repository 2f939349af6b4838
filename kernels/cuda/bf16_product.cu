// Products of few rows with a bf16 weight, which cuBLASLt's tiles of 64 rows and more mostly wait for.
#include "blas.h"
#include "few_rows_mma.h"

namespace nt {
namespace {

// Two 16-byte accesses.
struct Bf16Rows {
  static constexpr double kBytes = 2;
  struct Run {
    uint4 half[2];
  };
  const bf16 *data;

  __device__ __forceinline__ static void begin(float *) {}
  __device__ __forceinline__ void load(Run &run, int64_t at, int left) const {
    NT_UNROLL
    for (int half = 0; half < 2; half++) {
      run.half[half] = make_uint4(0, 0, 0, 0);
      if (left > 8 * half) run.half[half] = __ldcs(reinterpret_cast<const uint4 *>(data + at + 8 * half));
    }
  }
  __device__ __forceinline__ static void words(uint32_t (&words)[8], const float *, const Run &run) {
    memcpy(words, &run, 32);
  }
};

}  // namespace

bool bf16_takes_rows(const nt_weight *weight, const void *a, int64_t lda) {
  return weight->dtype == NT_BF16 && weight->ld == weight->in && weight->in <= INT32_MAX / 2 &&
         aligned16(weight->data) && few_rows_aligned(weight->in, a, lda, weight->dtype);
}

int32_t bf16_few_rows(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                       const void *a, int64_t lda, const float *bias, bool accumulate, int64_t T) {
  const FewRows p = {c, ldc, a, lda, bias, weight->out, weight->in, T, c_dtype == NT_F32, accumulate, 1};
  NT_CUDA(few_rows_mma(context, p, Bf16Rows{static_cast<const bf16 *>(weight->data)}), "linear_forward");
  return NT_OK;
}

}  // namespace nt
