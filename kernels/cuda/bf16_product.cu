// Products of few rows with a bf16 weight, which cuBLASLt's tiles of 64 rows and more mostly wait for.
#include "blas.h"
#include "few_rows.h"

namespace nt {
namespace {

// Eight weights are one 16-byte access, four of which a thread has under way.
struct Bf16Rows {
  static constexpr int kOutputs = 4, kMostRows = 8;
  static constexpr double kBytes = 2;
  static constexpr int blocks(int rows) { return rows > 4 ? 3 : 4; }  // eight rows take more than 128 registers
  const bf16 *data;

  __device__ __forceinline__ static void begin(float *) {}
  __device__ __forceinline__ void load(float (&weight)[kFewWord], const float *, int64_t word) const {
    const Pack<bf16> pack = load_pack_once(data + word * kFewWord);
    NT_UNROLL
    for (int k = 0; k < kFewWord; k++) weight[k] = to_float(pack.x[k]);
  }
};

}  // namespace

bool bf16_takes_rows(const nt_weight *weight, const void *a, int64_t lda, int64_t T) {
  return weight->dtype == NT_BF16 && T <= kFewRows && weight->in % kFewWord == 0 && weight->ld == weight->in &&
         aligned16(a) && lda % 8 == 0 && aligned16(weight->data);
}

int32_t bf16_few_rows(nt_context *context, const nt_weight *weight, void *c, int32_t c_dtype, int64_t ldc,
                      const void *a, int64_t lda, const float *bias, bool accumulate, int64_t T) {
  const FewRows p = {c, ldc, a, lda, bias, weight->out, weight->in, int(T), c_dtype == NT_F32, accumulate};
  NT_CUDA(few_rows<bf16>(context, p, Bf16Rows{static_cast<const bf16 *>(weight->data)}), "linear_forward");
  return NT_OK;
}

}  // namespace nt
