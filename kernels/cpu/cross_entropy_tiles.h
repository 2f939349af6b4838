// The head's loss and the gradient of its input by tiles of tokens and vocabulary.
#pragma once
#include "../entry/weight.h"
#include "context.h"
#include "vec.h"

namespace nt {

struct HeadLoss {
  const nt_weight *weight;
  float *losses;
  void *dx;  // null: losses alone
  const void *x;
  const int32_t *rows, *targets;
  int64_t n;
  float gradient_scale;

  template <typename T>
  const T *weight_row(int64_t v) const {
    return static_cast<const T *>(weight->data) + v * weight->ld;
  }
};

// For fewer tokens two plain products are faster.
constexpr int64_t kFewestTokens = 64;

// Whether this is the faster way for kFewestTokens and more, with H inputs in `dtype`.
bool takes_tiles(nt_context *context, int32_t dtype, int64_t H);
int32_t head_loss(nt_context *context, const HeadLoss &call);

}  // namespace nt
