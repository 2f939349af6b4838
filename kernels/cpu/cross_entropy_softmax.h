// Softmax over a vocabulary that is seen tile by tile: what it keeps of each token between them. With e = exp(l − m), m a
// running maximum, and the target left out of the sums,
//   loss = softplus(m + log Σ e − l_target),  dx = scale · (Σ e·W − (Σ e)·W_target) / (Σ e + exp(l_target − m)).
#pragma once
#include <math.h>

#include "cross_entropy_tiles.h"
#include "exp2.h"
#include "item_memory.h"
#include "word_tiles.h"

namespace nt {

class RunningSoftmax {
 public:
  RunningSoftmax(const HeadLoss &call, Parts &parts, int64_t tokens) : call_(call) {
    tops_ = parts.take(tokens);
    shrink_ = parts.take(tokens);
    at_target_ = parts.take(tokens);
    totals_ = reinterpret_cast<double *>(parts.take(2 * tokens));
  }

  // Of `count` tokens from `at` on, which are the call's from `first` on, logits[n, ld] of the vocabulary from v on become
  // e in words[n, ld], with Pairs [n / 2 rounded up, ld], which may be the same memory. True when sums so far must shrink.
  template <bool Pairs>
  bool powers(float *words, float *logits, int64_t ld, int64_t at, int64_t first, int64_t count, int64_t v, int64_t n) {
    for (int64_t i = 0; i < count; i++) {
      const int64_t target = call_.targets[first + i] - v;
      if (target < 0 || target >= n) continue;
      at_target_[at + i] = logits[target * ld + i];
      logits[target * ld + i] = -INFINITY;
    }
    bool shrinks = false;
    for (int64_t i = 0; i < count; i += kLanes)
      shrinks |= column<Pairs>(words + i, logits + i, ld, at + i, n, v == 0);
    return shrinks;
  }

  // What the last tile's maxima scale earlier sums by.
  const float *shrink() const { return shrink_; }

  // The loss of the token at `at`; dx = own · W_target + factor · Σ e·W.
  struct Result {
    float loss, own, factor;
  };
  Result result(int64_t at) const {
    // Beside a target's infinite logit the others' sum is a finite number, but the loss, ∞ − ∞, is none.
    const double others = at_target_[at] == INFINITY ? NAN : totals_[at], top = double(tops_[at]) / kLog2E;
    // How far the logarithm of the others' sum lies above the target's logit.
    const double above = log(others) + top - at_target_[at], scale = call_.gradient_scale;
    return {float(above > 0 ? above + log1p(::exp(-above)) : log1p(::exp(above))), float(-scale / (1 + ::exp(-above))),
            float(scale / (others + ::exp(at_target_[at] - top)))};
  }

 private:
  template <bool Pairs>
  bool column(float *words, const float *logits, int64_t ld, int64_t at, int64_t n, bool start) {
    // A maximum may lag behind by this much (a power stays below 2⁸) before earlier sums are scaled down.
    constexpr float lag = 8.0f;
    const Vec factor = splat(kLog2E);
    // A number, even where the target is all there is.
    Vec tops[4];
    for (Vec &top : tops) top = splat(-1e37f);
    int64_t k = 0;
    for (; k + 4 <= n; k += 4)
      for (int i = 0; i < 4; i++) tops[i] = max(load(logits + (k + i) * ld), tops[i]);
    for (; k < n; k++) tops[0] = max(load(logits + k * ld), tops[0]);
    Vec top = max(max(tops[0], tops[1]), max(tops[2], tops[3])) * factor, scale = splat(1.0f);
    bool shrinks = false;
    if (!start) {
      const Vec old = load(tops_ + at);
      const VecI grows = top > old + splat(lag);
      top = select(grows, top, old);
      scale = exp2<false>(old - top);
      shrinks = any(grows);
    }
    store(shrink_ + at, scale);
    store(tops_ + at, top);

    Vec parts[2] = {};
    const auto power = [&](int64_t key) { return exp2<false>(fma(load(logits + key * ld), factor, -top)); };
    for (k = 0; k + 2 <= n; k += 2) {
      const Vec p = power(k), next = power(k + 1);
      parts[0] += p;
      parts[1] += next;
      if constexpr (Pairs) {
        store(words + k / 2 * ld, pair_words(p, next));
      } else {
        store(words + k * ld, p);
        store(words + (k + 1) * ld, next);
      }
    }
    if (k < n) {
      const Vec p = power(k);
      parts[0] += p;
      store(words + (Pairs ? k / 2 : k) * ld, Pairs ? pair_words(p, Vec{}) : p);
    }
    float part[kLanes];
    store(part, parts[0] + parts[1]);
    for (int64_t i = 0; i < kLanes; i++) {
      double &total = totals_[at + i];
      total = (start ? 0 : total * shrink_[at + i]) + part[i];
    }
    return shrinks;
  }

  const HeadLoss &call_;
  float *tops_;       // [tokens] m, times log₂ e
  float *shrink_;     // [tokens]
  float *at_target_;  // [tokens] the target's logit
  double *totals_;    // [tokens] Σ e
};

// dx of the token: own · W_target + factor · sums.
template <typename T>
inline void write_gradient(const HeadLoss &call, int64_t token, const RunningSoftmax::Result &result, const float *sums) {
  const int64_t H = call.weight->in;
  const Vec own = splat(result.own), factor = splat(result.factor);
  const T *row = call.weight_row<T>(call.targets[token]);
  T *dx = static_cast<T *>(call.dx) + call.rows[token] * H;
  int64_t j = 0;
  for (; j + kLanes <= H; j += kLanes) store_rounded(dx + j, fma(own, load(row + j), factor * load(sums + j)));
  if (j < H) store_part(dx + j, fma(own, load_part(row + j, H - j), factor * load(sums + j)), H - j);
}

}  // namespace nt
