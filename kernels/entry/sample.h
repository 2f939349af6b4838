#pragma once
#include <math.h>

#include "arguments.h"
#include "entry.h"

namespace nt {

inline int32_t check_sampling(const nt_sampling &row) {
  NT_CHECK(row.temperature >= 0 && row.temperature < INFINITY, "sample: temperature must be ≥ 0, got %g",
           double(row.temperature));
  NT_CHECK(row.top_k >= 0, "sample: top_k must be ≥ 0 (0: off), got %lld", (long long)row.top_k);
  NT_CHECK(row.top_p >= 0, "sample: top_p must be ≥ 0 (1: off), got %g", double(row.top_p));
  NT_CHECK(row.min_p >= 0 && row.min_p <= 1, "sample: min_p must be in [0, 1] (0: off), got %g", double(row.min_p));
  NT_CHECK(row.repetition_penalty > 0, "sample: repetition_penalty must be > 0, got %g",
           double(row.repetition_penalty));
  NT_CHECK(row.step >= 0 && row.step <= UINT32_MAX, "sample: step must be in [0, 2^32), got %lld",
           (long long)row.step);
  NT_CHECK(row.draw >= 0 && row.draw < int64_t(1) << 48, "sample: draws must be in [0, 2^48), got %lld",
           (long long)row.draw);
  return NT_OK;
}

}  // namespace nt

NT_API int32_t nt_sample(nt_context *context, int32_t *tokens, float *logits, int64_t B, int64_t V,
                         const nt_sampling *rows, const int32_t *history, const int64_t *offsets) {
  NT_CHECK(B >= 0 && V >= 0 && V <= INT32_MAX, "sample: B must be ≥ 0 and V in [0, 2^31), got %lld and %lld",
           (long long)B, (long long)V);
  if (B == 0 || V == 0) return NT_OK;
  NT_CHECK(tokens != nullptr && logits != nullptr && rows != nullptr,
           "sample: tokens, logits and rows must not be null");
  bool penalized = false;
  for (int64_t b = 0; b < B; b++) {
    NT_TRY(nt::check_sampling(rows[b]));
    penalized = penalized || rows[b].repetition_penalty != 1;
  }
  NT_CHECK(!penalized || (history != nullptr && offsets != nullptr),
           "sample: a repetition penalty needs history and its offsets");
  for (int64_t b = 0; penalized && b < B; b++) {
    NT_CHECK(offsets[b] >= 0 && offsets[b] <= offsets[b + 1], "sample: history offsets must not fall, got %lld, %lld",
             (long long)offsets[b], (long long)offsets[b + 1]);
    NT_CHECK(offsets[b + 1] - offsets[b] <= nt::kHistoryTokens,
             "sample: at most %lld tokens of history a row, got %lld", (long long)nt::kHistoryTokens,
             (long long)(offsets[b + 1] - offsets[b]));
    for (int64_t i = offsets[b]; i < offsets[b + 1]; i++)
      NT_CHECK(history[i] >= 0 && history[i] < V, "sample: history tokens must be in [0, %lld), got %d", (long long)V,
               int(history[i]));
  }
  return nt::sample(context, tokens, logits, B, V, rows, penalized ? history : nullptr, offsets);
}
