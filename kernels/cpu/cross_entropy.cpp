// The language model's head and its loss in one: logits exist for a chunk of rows at a time, in the caller's
// workspace, in float32 whatever the activations are; their gradient replaces them in place. Where no gradient of the
// weight is wanted, tiles of logits do (cross_entropy_tiles.cpp).
#include <math.h>
#include <string.h>

#include "cross_entropy_tiles.h"
#include "parallel.h"
#include "weight.h"

namespace nt {
namespace {

// More rows in a chunk no longer speed up the products.
constexpr int64_t kChunkRows = 256;
constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Where tiles do for more rows, those of the calls with fewer.
int64_t most_chunk_rows(nt_context *context, int32_t dtype, int64_t H, int64_t, bool dweight) {
  return !dweight && takes_tiles(context, dtype, H) ? kFewestTokens - 1 : kChunkRows;
}

// Logits, gathered rows of x, and their gradient.
int64_t chunk_bytes(int32_t dtype, int64_t rows, int64_t H, int64_t V) {
  return aligned(rows * V * 4) + 2 * aligned(rows * H * size_of(dtype));
}

// loss = log Σ_j exp(l_j) − l_t. The target's own term stays out of the sum: where it dominates, the loss is
// log1p(the others) and keeps its digits.
// With `gradient`, l becomes gradient_scale · (softmax(l) − onehot(t)) as T, in place (T is no wider than float).
template <typename T>
float softmax_row(float *l, int64_t V, int64_t target, float gradient_scale, bool gradient) {
  const float at_target = l[target];
  const int64_t whole = V - V % kLanes;
  float top = at_target;
  if (whole > 0) {
    Vec highest = load(l);
    for (int64_t j = kLanes; j < whole; j += kLanes) highest = max(highest, load(l + j));
    top = fmaxf(top, max_of(highest));
  }
  for (int64_t j = whole; j < V; j++) top = fmaxf(top, l[j]);

  l[target] = -INFINITY;
  const Vec shift = splat(top);
  double others = 0;
  for (int64_t begin = 0; begin < whole; begin += 256 * kLanes) {
    int64_t end = begin + 256 * kLanes < whole ? begin + 256 * kLanes : whole;
    Vec part = {};
    for (int64_t j = begin; j < end; j += kLanes) {
      Vec e = exp(load(l + j) - shift);
      if (gradient) store(l + j, e);
      part += e;
    }
    others += sum(part);
  }
  for (int64_t j = whole; j < V; j++) {
    float e = expf(l[j] - top);
    if (gradient) l[j] = e;
    others += e;
  }
  const double total = others + ::exp(double(at_target) - top);
  if (gradient) {
    T *d = reinterpret_cast<T *>(l);
    const float factor = float(gradient_scale / total);
    for (int64_t j = 0; j < whole; j += kLanes) store_rounded(d + j, load(l + j) * splat(factor));
    for (int64_t j = whole; j < V; j++) {
      float e;
      memcpy(&e, l + j, 4);
      set(d[j], e * factor);
    }
    set(d[target], float(-gradient_scale * (others / total)));
  }
  // Where the target's logit is infinite, the difference is no number, and nor is the loss.
  const bool dominates = at_target == top && top < INFINITY;
  return float(dominates ? log1p(others) : double(top) - at_target + log(total));
}

void scatter_rows(int threads, int64_t n, int64_t row_bytes, const int32_t *rows, const char *gathered, char *destination) {
  parallel_for(threads, n, 1 + (1 << 15) / row_bytes, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      memcpy(destination + rows[i] * row_bytes, gathered + i * row_bytes, size_t(row_bytes));
  });
}

void gather_rows(int threads, int64_t n, int64_t row_bytes, const int32_t *rows, char *gathered, const char *source) {
  parallel_for(threads, n, 1 + (1 << 15) / row_bytes, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      memcpy(gathered + i * row_bytes, source + rows[i] * row_bytes, size_t(row_bytes));
  });
}

// Zeroes the rows of dx[T, row_bytes] that are not among `rows`.
void clear_other_rows(char *dx, int64_t row_bytes, const int32_t *rows, int64_t n, int64_t T) {
  int64_t next = 0;
  for (int64_t i = 0; i <= n; i++) {
    int64_t row = i < n ? rows[i] : T;
    if (row > next) memset(dx + next * row_bytes, 0, size_t((row - next) * row_bytes));
    next = row + 1;
  }
}

int32_t linear_cross_entropy(nt_context *context, int32_t dtype, float *losses, void *dx, float *dweight, const void *x,
                             const nt_weight *weight, const int32_t *rows, const int32_t *targets, int64_t n,
                             int64_t T, float gradient_scale, void *workspace, int64_t chunk) {
  const int64_t V = weight->out, H = weight->in, row_bytes = H * size_of(dtype);
  if (dx != nullptr) clear_other_rows(static_cast<char *>(dx), row_bytes, rows, n, T);
  if (dweight == nullptr && weight->data != nullptr && n >= kFewestTokens && takes_tiles(context, dtype, H))
    return head_loss(context, {weight, losses, dx, x, rows, targets, n, gradient_scale});
  auto *logits = static_cast<float *>(workspace);
  char *gathered_x = static_cast<char *>(workspace) + aligned(chunk * V * 4);
  char *gathered_dx = gathered_x + aligned(chunk * row_bytes);
  const bool gradient = dx != nullptr || dweight != nullptr;
  const int64_t ld_gradient = dtype == NT_F32 ? V : 2 * V;  // in elements of dtype: rows stay where their logits were
  for (int64_t first = 0; first < n; first += chunk) {
    const int64_t count = n - first < chunk ? n - first : chunk;
    const int32_t *some = rows + first;
    // Rows that follow each other are used where they are.
    const bool together = some[count - 1] - some[0] == count - 1;
    const char *from = static_cast<const char *>(x) + some[0] * row_bytes;
    if (!together) gather_rows(context->threads, count, row_bytes, some, gathered_x, static_cast<const char *>(x));
    const void *chunk_x = together ? from : gathered_x;
    int32_t status =
        times_weight_transposed(context, weight, logits, NT_F32, V, chunk_x, H, nullptr, false, count);
    if (status != NT_OK) return status;
    parallel_for(context->threads, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        auto row = dtype == NT_F32 ? softmax_row<float> : softmax_row<bf16>;
        losses[first + i] = row(logits + i * V, V, targets[first + i], gradient_scale, gradient);
      }
    });
    if (dx != nullptr) {
      char *to = together ? static_cast<char *>(dx) + some[0] * row_bytes : gathered_dx;
      status = times_weight(context, weight, to, dtype, H, logits, ld_gradient, false, count);
      if (status != NT_OK) return status;
      if (!together) scatter_rows(context->threads, count, row_bytes, some, gathered_dx, static_cast<char *>(dx));
    }
    if (dweight != nullptr) {
      status = matmul(context, {V, H, count, transposed(logits, dtype, ld_gradient),
                                    as_stored(chunk_x, dtype, H), nullptr, dweight, NT_F32, H, nullptr, true});
      if (status != NT_OK) return status;
    }
  }
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/cross_entropy.h"
