// The last step of sums over many rows: partial sums of parts of the rows, added up in a fixed order.
#pragma once
#include "context.h"

namespace nt {

// sums[j] += Σ partials[0 … parts − 1][j] for `columns` columns.
int32_t add_partials(nt_context *context, float *sums, const float *partials, int64_t parts, int64_t columns,
                     const char *what);

}  // namespace nt
