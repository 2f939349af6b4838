// The head's loss and the gradient of its input by tiles of tokens and vocabulary, where the CPU multiplies bf16.
#pragma once
#include "../entry/weight.h"
#include "context.h"
#include "vec.h"

namespace nt {

struct HeadLoss {
  const nt_weight *weight;
  float *losses;
  bf16 *dx;  // null: losses alone
  const bf16 *x;
  const int32_t *rows, *targets;
  int64_t n;
  float gradient_scale;

  const bf16 *weight_row(int64_t v) const { return static_cast<const bf16 *>(weight->data) + v * weight->ld; }
};

// Whether this is the faster way; a matter of the call alone, not of the number of threads.
bool takes_tiles(const HeadLoss &call);
int32_t head_loss(nt_context *context, const HeadLoss &call);

}  // namespace nt
