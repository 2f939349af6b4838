// The optimizer: the gradient's norm and clipping factor, and AdamW (arXiv 1711.05101) as torch.optim.AdamW has it.
#include <math.h>

#include "adamw_update.h"
#include "context.h"
#include "parallel.h"

namespace nt {
namespace {

typedef double VecD __attribute__((vector_size(kLanes * 4)));
typedef float Half __attribute__((vector_size(kLanes * 2)));

double squares(const float *x, int64_t n) {
  VecD sums[4] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes)
    for (int k = 0; k < 4; k++) {
      Half half;
      __builtin_memcpy(&half, x + i + k * (kLanes / 2), sizeof half);
      VecD v = __builtin_convertvector(half, VecD);
      sums[k] += v * v;
    }
  VecD all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double result = 0;
  for (int k = 0; k < kLanes / 2; k++) result += all[k];
  for (; i < n; i++) result += double(x[i]) * double(x[i]);
  return result;
}

// The pieces do not depend on the number of threads, and neither does the sum.
constexpr int64_t kPieces = 1024;
constexpr int64_t kLeastPiece = 16384;

double sum_of_squares(int threads, const float *x, int64_t n) {
  double sums[kPieces];
  int64_t size = (n + kPieces - 1) / kPieces;
  if (size < kLeastPiece) size = kLeastPiece;
  int64_t pieces = (n + size - 1) / size;
  parallel_for(threads, pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) sums[p] = squares(x + p * size, (p + 1) * size < n ? size : n - p * size);
  });
  double total = 0;
  for (int64_t p = 0; p < pieces; p++) total += sums[p];
  return total;
}

int32_t adamw(nt_context *context, float *p, void *rounded, const float *g, float *m, float *v, int64_t n,
              const AdamwStep &s, const float *gradient_scale) {
  auto *copy = static_cast<bf16 *>(rounded);
  const float factor = gradient_scale == nullptr ? 1.0f : *gradient_scale;
  parallel_for(context->threads, n, 16384, [&](int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      Vec first = load(m + i), second = load(v + i);
      Vec updated = adamw_update(load(p + i), load(g + i), first, second, s, factor);
      store(p + i, updated);
      store(m + i, first);
      store(v + i, second);
      if (copy != nullptr) store(copy + i, updated);
    }
    if (i == end) return;
    int64_t left = end - i;
    Vec first = load_part(m + i, left), second = load_part(v + i, left);
    Vec updated = adamw_update(load_part(p + i, left), load_part(g + i, left), first, second, s, factor);
    store_part(p + i, updated, left);
    store_part(m + i, first, left);
    store_part(v + i, second, left);
    if (copy != nullptr) store_part(copy + i, updated, left);
  });
  return NT_OK;
}

int32_t gradient_norm(nt_context *context, float *result, const float *gradients, int64_t n, float max_norm) {
  double norm = sqrt(sum_of_squares(context->threads, gradients, n));
  double factor = max_norm > 0 ? double(max_norm) / (norm + 1e-6) : 1.0;
  result[0] = float(norm);
  result[1] = factor > 1.0 ? 1.0f : float(factor);  // a NaN stays one
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/adamw.h"
