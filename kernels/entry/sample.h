#pragma once
#include <math.h>

#include "arguments.h"
#include "entry.h"

NT_API int32_t nt_sample(nt_context *context, int32_t *tokens, float *logits, int64_t B, int64_t V, float temperature,
                         int64_t top_k, float top_p, float repetition_penalty, const int32_t *history,
                         const int64_t *offsets, uint64_t seed, const int64_t *draws, int64_t step) {
  NT_CHECK(B >= 0 && V >= 0 && V <= INT32_MAX, "sample: B must be ≥ 0 and V in [0, 2^31), got %lld and %lld",
           (long long)B, (long long)V);
  NT_CHECK(temperature >= 0 && temperature < INFINITY, "sample: temperature must be ≥ 0, got %g", double(temperature));
  NT_CHECK(top_k >= 0, "sample: top_k must be ≥ 0 (0: off), got %lld", (long long)top_k);
  NT_CHECK(top_p >= 0, "sample: top_p must be ≥ 0 (1: off), got %g", double(top_p));
  NT_CHECK(repetition_penalty > 0, "sample: repetition_penalty must be > 0, got %g", double(repetition_penalty));
  NT_CHECK(step >= 0 && step <= UINT32_MAX, "sample: step must be in [0, 2^32), got %lld", (long long)step);
  if (B == 0 || V == 0) return NT_OK;
  NT_CHECK(tokens != nullptr && logits != nullptr, "sample: tokens and logits must not be null");
  const bool penalized = repetition_penalty != 1, drawn = temperature > 0;
  NT_CHECK(!penalized || (history != nullptr && offsets != nullptr),
           "sample: a repetition penalty needs history and its offsets");
  NT_CHECK(!drawn || draws != nullptr, "sample: a temperature above 0 needs draws");
  for (int64_t b = 0; b < B; b++) {
    NT_CHECK(!drawn || (draws[b] >= 0 && draws[b] < int64_t(1) << 48),
             "sample: draws must be in [0, 2^48), got %lld", (long long)draws[b]);
    if (!penalized) continue;
    NT_CHECK(offsets[b] >= 0 && offsets[b] <= offsets[b + 1], "sample: history offsets must not fall, got %lld, %lld",
             (long long)offsets[b], (long long)offsets[b + 1]);
    NT_CHECK(offsets[b + 1] - offsets[b] <= nt::kHistoryTokens,
             "sample: at most %lld tokens of history a row, got %lld", (long long)nt::kHistoryTokens,
             (long long)(offsets[b + 1] - offsets[b]));
    for (int64_t i = offsets[b]; i < offsets[b + 1]; i++)
      NT_CHECK(history[i] >= 0 && history[i] < V, "sample: history tokens must be in [0, %lld), got %d", (long long)V,
               int(history[i]));
  }
  return nt::sample(context, tokens, logits, B, V,
                    {temperature, top_k, top_p, repetition_penalty, seed, uint32_t(step),
                     penalized ? history : nullptr, offsets, drawn ? draws : nullptr});
}
