// Rotary position embedding, in place.
#include "rope.h"

namespace nt {
namespace {

template <typename T_>
int32_t rope(nt_context *context, T_ *x, int64_t ldx, const float *cosine, const float *sine,
             const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim, float sign) {
  rotate_rows(context->threads, x, ldx, {cosine, sine, positions}, T, heads, head_dim, sign);
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/rope.h"
