// Rotary position embedding, in place.
#include "context.h"
#include "parallel.h"
#include "rope.h"

namespace nt {
namespace {

template <typename T_>
int32_t rope(nt_context *context, T_ *x, int64_t ldx, const float *cosine, const float *sine,
             const int32_t *positions, int64_t T, int64_t heads, int64_t head_dim, float sign) {
  int64_t half = head_dim / 2;
  parallel_for(context->threads, T, 1 + 8192 / (heads * head_dim), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
      for (int64_t h = 0; h < heads; h++) {
        T_ *head = x + t * ldx + h * head_dim;
        rotate(head, head + half, cosine + positions[t] * half, sine + positions[t] * half, half, sign);
      }
  });
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/rope.h"
