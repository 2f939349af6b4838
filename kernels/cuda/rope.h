// The rotation of rotary position embedding as a launch of its own, for what turns its results in passing where it can.
#pragma once
#include "../entry/rope_tables.h"
#include "context.h"

namespace nt {

// In place on x[tokens, heads · head_dim], rows ldx apart (as nt_rope); sign −1 turns back.
int32_t rope_rows(nt_context *context, int32_t dtype, void *x, int64_t ldx, const Rope &rope, int64_t tokens,
                  int64_t heads, int64_t head_dim, float sign);

}  // namespace nt
