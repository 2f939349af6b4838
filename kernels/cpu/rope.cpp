// Rotary position embedding, in place.
#include "../rope_checks.h"
#include "context.h"
#include "parallel.h"
#include "rope.h"

namespace nt {
namespace {

template <typename T_>
void rope(int threads, T_ *x, int64_t ldx, const float *cosine, const float *sine, const int32_t *positions,
          int64_t T, int64_t heads, int64_t head_dim, float sign) {
  int64_t half = head_dim / 2;
  parallel_for(threads, T, 1 + 8192 / (heads * head_dim), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
      for (int64_t h = 0; h < heads; h++) {
        T_ *head = x + t * ldx + h * head_dim;
        rotate(head, head + half, cosine + positions[t] * half, sine + positions[t] * half, half, sign);
      }
  });
}

}  // namespace
}  // namespace nt

NT_API int32_t nt_rope(nt_context *context, int32_t dtype, void *x, int64_t ldx, const float *cosine,
                       const float *sine, const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim,
                       int32_t inverse) {
  NT_CHECK_DTYPE("rope", dtype);
  if (int32_t status = nt::check_rope("rope", x, ldx, cosine, sine, positions, T, heads, head_dim)) return status;
  if (T == 0 || heads == 0 || head_dim == 0) return NT_OK;
  if (int32_t status = nt::check_positions("rope", positions, T)) return status;
  float sign = inverse != 0 ? -1.0f : 1.0f;
  if (dtype == NT_F32)
    nt::rope(context->threads, static_cast<float *>(x), ldx, cosine, sine, positions, T, heads, head_dim, sign);
  else
    nt::rope(context->threads, static_cast<nt::bf16 *>(x), ldx, cosine, sine, positions, T, heads, head_dim, sign);
  return NT_OK;
}
