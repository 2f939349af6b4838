// Generation: rows picked out of a batch, and the next token from the logits, by Transformers' chain of processors:
// repetition penalty → temperature → top-k → top-p → min-p → draw.
#include <math.h>
#include <string.h>

#include "../entry/arguments.h"
#include "context.h"
#include "parallel.h"
#include "random.h"
#include "scratch.h"

namespace nt {
namespace {

// Bits that compare as unsigned integers the way the floats do.
inline uint32_t order_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Each distinct token once, however often it stands in the history; `seen` has a bit for each token, all 0, and is
// left so.
void penalize(float *logits, const int32_t *history, int64_t n, float penalty, uint32_t *seen) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t token = uint32_t(history[i]), bit = 1u << (token & 31);
    if (seen[token >> 5] & bit) continue;
    seen[token >> 5] |= bit;
    float &logit = logits[token];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
  for (int64_t i = 0; i < n; i++) seen[uint32_t(history[i]) >> 5] = 0;
}

float greatest(const float *x, int64_t n) {
  Vec best = splat(-INFINITY);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) best = max(load(x + i), best);  // in this order a NaN is passed over
  float result = max_of(best);
  for (; i < n; i++) result = x[i] > result ? x[i] : result;
  return result;
}

// The lowest index of the greatest value; 0 where there is none.
int64_t greatest_index(const float *x, int64_t n) {
  float best = greatest(x, n);
  for (int64_t i = 0; i < n; i++)
    if (x[i] == best) return i;
  return 0;
}

// The order of the least logit among the greatest ones whose masses together reach `target`; `above` becomes the mass
// of those beyond it. A radix search: 2¹¹ buckets by the leading bits, then the bucket in which the target falls.
template <typename Mass>
uint32_t cut_at(const float *logits, int64_t n, double target, const Mass &mass, double &above) {
  constexpr int kBits = 11, kBuckets = 1 << kBits;
  double buckets[kBuckets];
  uint32_t prefix = 0, known = 0;
  above = 0;
  for (int shift = 32 - kBits; shift > -kBits; shift -= kBits) {
    int down = shift > 0 ? shift : 0;
    uint32_t width = uint32_t(shift > 0 ? kBits : kBits + shift), mask = (1u << width) - 1;
    memset(buckets, 0, sizeof buckets);
    for (int64_t i = 0; i < n; i++) {
      uint32_t order = order_of(logits[i]);
      if ((order & known) == prefix) buckets[order >> down & mask] += mass(i);
    }
    int64_t found = -1;
    double beyond = 0;
    for (int64_t b = mask; b >= 0; b--) {
      if (!(buckets[b] > 0)) continue;
      if (found >= 0) beyond += buckets[found];
      found = b;  // stays the last one with anything in it, should rounding keep the sum below the target
      if (above + beyond + buckets[b] >= target) break;
    }
    above += beyond;
    prefix |= uint32_t(found < 0 ? 0 : found) << down;
    known |= mask << down;
  }
  return prefix;
}

// p[V] = e^(x − greatest), 0 where x lies below `least`; −inf and NaN get 0.
void weigh(float *p, const float *x, int64_t V, uint32_t least) {
  Vec top = splat(greatest(x, V));
  int64_t i = 0;
  for (; i + kLanes <= V; i += kLanes) {
    Vec v = load(x + i);
    store(p + i, select(v > splat(-INFINITY), exp(v - top), splat(0.0f)));
  }
  if (i < V) {
    Vec v = load_part(x + i, V - i);
    store_part(p + i, select(v > splat(-INFINITY), exp(v - top), splat(0.0f)), V - i);
  }
  if (least == 0) return;
  for (i = 0; i < V; i++)
    if (order_of(x[i]) < least) p[i] = 0;
}

double total_of(const float *p, int64_t V) {
  double total = 0;
  for (int64_t i = 0; i < V; i++) total += double(p[i]);
  return total;
}

// Zeroes what lies outside the nucleus: the most probable tokens, as few as reach top_p together (a token stays while
// those before it sum to less than top_p); among equals at the border the lowest ids stay.
void keep_nucleus(float *p, const float *x, int64_t V, double top_p) {
  double above, target = top_p * total_of(p, V);
  uint32_t least = cut_at(x, V, target, [p](int64_t i) { return double(p[i]); }, above);
  bool first = true;
  for (int64_t i = 0; i < V; i++) {
    uint32_t order = order_of(x[i]);
    if (order > least) continue;
    if (order == least && (first || above < target)) {
      above += double(p[i]);
      first = false;
      continue;
    }
    p[i] = 0;
  }
}

int32_t sample_row(float *x, float *p, int64_t V, const nt_sampling &settings) {
  if (settings.temperature == 0) return int32_t(greatest_index(x, V));
  for (int64_t i = 0; i < V; i++) x[i] = x[i] == x[i] ? x[i] / settings.temperature : -INFINITY;
  uint32_t least = 0;
  double above;
  if (settings.top_k > 0 && settings.top_k < V)
    least = cut_at(x, V, double(settings.top_k), [](int64_t) { return 1.0; }, above);
  weigh(p, x, V, least);
  if (settings.top_p < 1) keep_nucleus(p, x, V, double(settings.top_p));

  if (settings.min_p > 0)
    for (int64_t i = 0; i < V; i++) p[i] = p[i] < settings.min_p ? 0 : p[i];  // the greatest is 1

  // The first token, by id, at which the running sum passes u of the whole.
  uint32_t high = uint32_t(settings.draw >> 32) | uint32_t(NT_STREAM_SAMPLE) << 16;
  uint32_t word = nt_philox(uint32_t(settings.seed), uint32_t(settings.seed >> 32), uint32_t(settings.step), 0,
                            uint32_t(settings.draw), high)
                      .x[0];
  double target = double(word) * 0x1p-32 * total_of(p, V), sum = 0;
  int64_t token = 0;
  for (int64_t i = 0; i < V; i++) {
    if (!(p[i] > 0)) continue;
    token = i;
    sum += double(p[i]);
    if (sum > target) break;
  }
  return int32_t(token);
}

// One a thread: V probabilities and a bit for each token.
thread_local Scratch scratch;

int64_t seen_words(int64_t V) { return (V + 31) / 32; }

int32_t gather_rows(nt_context *context, int32_t dtype, void *y, const void *x, const int32_t *rows, int64_t n,
                    int64_t columns) {
  int64_t bytes = columns * size_of(dtype);
  parallel_for(context->threads, n, 1 + 65536 / bytes, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      memcpy(static_cast<char *>(y) + i * bytes, static_cast<const char *>(x) + rows[i] * bytes, size_t(bytes));
  });
  return NT_OK;
}

int32_t sample(nt_context *context, int32_t *tokens, float *logits, int64_t B, int64_t V, const nt_sampling *rows,
               const int32_t *history, const int64_t *offsets) {
  int64_t probabilities = (V * 4 + 63) / 64 * 64, bytes = probabilities + seen_words(V) * 4;
  bool failed = false;
  parallel_for(context->threads, B, 1, [&](int64_t begin, int64_t end) {
    auto *memory = static_cast<char *>(scratch.at_least(bytes));
    if (memory == nullptr) {
      __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      return;
    }
    auto *seen = reinterpret_cast<uint32_t *>(memory + probabilities);
    memset(seen, 0, size_t(seen_words(V)) * 4);
    for (int64_t b = begin; b < end; b++) {
      float *row = logits + b * V;
      if (rows[b].repetition_penalty != 1)
        penalize(row, history + offsets[b], offsets[b + 1] - offsets[b], rows[b].repetition_penalty, seen);
      tokens[b] = sample_row(row, reinterpret_cast<float *>(memory), V, rows[b]);
    }
  });
  if (failed) return fail(NT_OUT_OF_MEMORY, "sample: out of memory: %lld bytes of scratch", (long long)bytes);
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/gather_rows.h"
#include "../entry/sample.h"
