// What other operations take of LoRA's products where they do not make them in passing.
#pragma once
#include "context.h"

namespace nt {

// da[R,in] (float32) += gᵀ[R,T]·x[T,in], rows of g and x ldg and ldx apart (as nt_lora_backward_a).
int32_t add_lora_a(nt_context *context, int32_t dtype, float *da, const void *g, int64_t ldg, const void *x, int64_t ldx,
                   int64_t T, int64_t R, int64_t in);

}  // namespace nt
