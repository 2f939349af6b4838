// The head's loss and the gradient of its input in one pass over the weight, with an online softmax (as in
// FlashAttention, arXiv 2205.14135, where queries are x and keys and values both W): logits exist for a tile of tokens
// and vocabulary at a time, in the core's cache. With e = exp(l − m) and the target left out of the sums,
//   loss = softplus(m + log Σ e − l_target),  dx = scale · (Σ e·W − (Σ e)·W_target) / (Σ e + exp(l_target − m)).
// Logits are computed transposed, [vocabulary, token]: every lane is a token.
#include "cross_entropy_tiles.h"

#include <math.h>

#include <atomic>
#include <type_traits>

#include "exp2.h"
#include "item_memory.h"
#include "word_tiles_amx.h"

namespace nt {
namespace {

// Tokens that share a reading of the weight, and the rows of the weight that are taken at a time. The sums for dx and
// everything else of a thread then stay in an L2 cache of 2 MB up to kMostInputs or so; beyond, two plain products are
// as fast. For fewer tokens than kFewestTokens they are faster.
constexpr int64_t kTokens = 256, kRows = 128, kMostInputs = 1024, kFewestTokens = 64;

template <bool Amx>
class HeadTiles {
 public:
  static int64_t floats(const HeadLoss &call) { return HeadTiles(call, nullptr).used_; }

  HeadTiles(const HeadLoss &call, float *memory) : call_(call) {
    const int64_t H = call.weight->in;
    columns_ = round_up(H, 2 * kEdge);
    // Rows an odd number of cache lines apart fall into different sets.
    words_ = columns_ / 2;
    stride_ = words_ | kEdge;
    pair_stride_ = Amx ? kRows / 2 + kEdge : columns_;
    Parts parts = {memory};
    tile_ = parts.take(kRows * stride_);
    pairs_ = parts.take(Amx ? columns_ * pair_stride_ : kRows / 2 * columns_);
    tokens_ = parts.take(kTokens * stride_);
    scores_ = parts.take(kRows * kPanel);
    probabilities_ = parts.take(kRows / 2 * kPanel);
    sums_ = parts.take(kTokens * columns_);
    tops_ = parts.take(kTokens);
    shrink_ = parts.take(kPanel);
    at_target_ = parts.take(kTokens);
    totals_ = reinterpret_cast<double *>(parts.take(2 * kTokens));
    used_ = parts.used;
  }

  // The tokens [begin, end) of the call, at most kTokens.
  void run(int64_t begin, int64_t end) {
    [[maybe_unused]] const std::conditional_t<Amx, AmxTiles, int> tiles{};
    const int64_t V = call_.weight->out, H = call_.weight->in;
    for (int64_t i = begin; i < end; i += kPanel) pack_tokens(i, begin, std::min(kPanel, end - i));
    for (int64_t i = 0; i < end - begin; i++) totals_[i] = 0;
    for (int64_t v = 0; v < V; v += kRows) {
      const int64_t n = std::min(kRows, V - v);
      pack_rows<true, bf16>(tile_, n, H, stride_, [&](int64_t r) { return call_.weight_row(v + r); });
      if (call_.dx != nullptr) {
        if constexpr (Amx)
          pack_column_pairs(pairs_, pair_stride_, tile_, n, stride_, columns_);
        else
          pack_row_pairs(pairs_, tile_, n, stride_, columns_);
      }
      for (int64_t i = begin; i < end; i += kPanel) panel(i, begin, std::min(kPanel, end - i), v, n);
    }
    for (int64_t i = begin; i < end; i++) finish(i, i - begin);
  }

 private:
  // Tokens from `first` on, transposed; the tile's memory is free meanwhile.
  void pack_tokens(int64_t first, int64_t begin, int64_t count) {
    const int64_t H = call_.weight->in;
    static_assert(kRows >= kPanel, "a panel of tokens passes through the memory of a tile of the weight");
    pack_rows<true, bf16>(tile_, count, H, stride_, [&](int64_t r) { return call_.x + call_.rows[first + r] * H; });
    pack_transposed(tokens_ + (first - begin) * stride_, tile_, count, stride_);
  }

  // A panel of tokens from `first` on and the n rows of the weight from v on.
  void panel(int64_t first, int64_t begin, int64_t count, int64_t v, int64_t n) {
    const int64_t vectors = (count + kLanes - 1) / kLanes, at = first - begin;
    const float *tokens = tokens_ + at * stride_;
    if constexpr (Amx) {
      multiply_amx(n, vectors, tile_, stride_, tokens, kPanel, scores_, kPanel, false,
                   [&](int64_t, int64_t, int64_t) { return Range{0, words_}; });
    } else {
      multiply<true, false>(n, vectors, tile_, stride_, tokens, kPanel, scores_, kPanel, false,
                            [&](int64_t, int64_t) { return Part{0, 0, words_}; });
    }
    for (int64_t i = 0; i < count; i++) {
      const int64_t target = call_.targets[first + i] - v;
      if (target < 0 || target >= n) continue;
      at_target_[at + i] = scores_[target * kPanel + i];
      scores_[target * kPanel + i] = -INFINITY;
    }
    const bool start = v == 0, shrinks = softmax(at, vectors, n, start);
    if (call_.dx == nullptr) return;
    float *sums = sums_ + at * columns_;
    if (shrinks) shrink(sums, count, vectors);
    if constexpr (Amx) {
      multiply_amx(columns_, vectors, pairs_, pair_stride_, probabilities_, kPanel, sums, kPanel, !start,
                   [&](int64_t, int64_t, int64_t) { return Range{0, (n + 1) / 2}; });
    } else {
      multiply<true, true>(count, columns_ / kLanes, probabilities_, kPanel, pairs_, columns_, sums, columns_, !start,
                           [&](int64_t, int64_t) { return Part{0, 0, (n + 1) / 2}; });
    }
  }

  // From n logits of each token to their powers, in pairs, and their totals; true when sums so far must shrink.
  bool softmax(int64_t at, int64_t vectors, int64_t n, bool start) {
    // A maximum may lag behind by this much (a power stays below 2⁸) before earlier sums are scaled down.
    constexpr float lag = 8.0f;
    const Vec factor = splat(kLog2E);
    bool shrinks = false;
    for (int64_t v = 0; v < vectors; v++) {
      const float *column = scores_ + v * kLanes;
      // A number, even where the target is all there is.
      Vec tops[4];
      for (Vec &top : tops) top = splat(-1e37f);
      int64_t k = 0;
      for (; k + 4 <= n; k += 4)
        for (int i = 0; i < 4; i++) tops[i] = max(load(column + (k + i) * kPanel), tops[i]);
      for (; k < n; k++) tops[0] = max(load(column + k * kPanel), tops[0]);
      Vec top = max(max(tops[0], tops[1]), max(tops[2], tops[3])) * factor;
      Vec scale = splat(1.0f);
      if (!start) {
        const Vec old = load(tops_ + at + v * kLanes);
        const VecI grows = top > old + splat(lag);
        top = select(grows, top, old);
        scale = exp2<false>(old - top);
        shrinks = shrinks || any(grows);
      }
      store(shrink_ + v * kLanes, scale);
      store(tops_ + at + v * kLanes, top);

      Vec parts[2] = {};
      float *words = probabilities_ + v * kLanes;
      auto power = [&](int64_t key) { return exp2<false>(fma(load(column + key * kPanel), factor, -top)); };
      for (k = 0; k + 2 <= n; k += 2, words += kPanel) {
        const Vec p = power(k), next = power(k + 1);
        parts[0] += p;
        parts[1] += next;
        store(words, pair_words(p, next));
      }
      if (k < n) {
        const Vec p = power(k);
        parts[0] += p;
        store(words, pair_words(p, Vec{}));
        words += kPanel;
      }
      for (float *end = probabilities_ + round_up((n + 1) / 2, kEdge) * kPanel; words < end; words += kPanel)
        store(words, Vec{});
      float part[kLanes];
      store(part, parts[0] + parts[1]);
      for (int64_t i = 0; i < kLanes; i++) {
        double &total = totals_[at + v * kLanes + i];
        total = total * shrink_[v * kLanes + i] + part[i];
      }
    }
    return shrinks;
  }

  void shrink(float *sums, int64_t count, int64_t vectors) {
    if constexpr (Amx) {
      for (int64_t i = 0; i < columns_; i++)
        for (int64_t v = 0; v < vectors; v++) {
          float *at = sums + i * kPanel + v * kLanes;
          store(at, load(at) * load(shrink_ + v * kLanes));
        }
    } else {
      for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < columns_; j += kLanes)
          store(sums + i * columns_ + j, load(sums + i * columns_ + j) * splat(shrink_[i]));
    }
  }

  // A token's loss and dx, in the order of the tokens; the tile's memory is free by now.
  void finish(int64_t token, int64_t at) {
    // Beside a target's infinite logit the others' sum is a finite number, but the loss, ∞ − ∞, is none.
    const double others = at_target_[at] == INFINITY ? NAN : totals_[at], top = double(tops_[at]) / kLog2E;
    // How far the logarithm of the others' sum lies above the target's logit.
    const double above = log(others) + top - at_target_[at];
    call_.losses[token] = float(above > 0 ? above + log1p(::exp(-above)) : log1p(::exp(above)));
    if (call_.dx == nullptr) return;
    const int64_t H = call_.weight->in;
    const float *sums = sums_ + at * columns_;
    if constexpr (Amx) {
      const int64_t lane = at % kPanel;
      sums = sums_ + (at - lane) * columns_;
      if (lane % kLanes == 0) rows_of_columns(tile_, sums + lane, columns_);
      sums = tile_ + lane % kLanes * columns_;
    }
    const Vec factor = splat(float(call_.gradient_scale / (others + ::exp(at_target_[at] - top))));
    const Vec own = splat(float(-call_.gradient_scale / (1 + ::exp(-above))));
    const bf16 *row = call_.weight_row(call_.targets[token]);
    bf16 *dx = call_.dx + call_.rows[token] * H;
    int64_t j = 0;
    for (; j + kLanes <= H; j += kLanes) store_rounded(dx + j, fma(own, load(row + j), factor * load(sums + j)));
    if (j < H) store_part(dx + j, fma(own, load_part(row + j, H - j), factor * load(sums + j)), H - j);
  }

  const HeadLoss &call_;
  int64_t columns_;  // H in whole pairs of tiles
  int64_t words_, stride_, pair_stride_, used_;
  float *tile_;           // [kRows, stride] of the weight
  float *pairs_;          // its pairs of rows: with AMX [columns, pair_stride], else [pairs, columns]
  float *tokens_;         // [panels, stride, kPanel]
  float *scores_;         // [kRows, kPanel]
  float *probabilities_;  // [kRows / 2, kPanel], in pairs
  float *sums_;           // Σ e·W: with AMX [panels, columns, kPanel], else [tokens, columns]
  float *tops_;           // [tokens] what e is relative to, times log₂ e
  float *shrink_;         // [kPanel] what a new maximum scales earlier sums by
  float *at_target_;      // [tokens] the target's logit
  double *totals_;        // [tokens] Σ e
};

template <bool Amx>
bool by_tiles(int threads, const HeadLoss &call) {
  // Every thread has the same number of items, of whole vectors of tokens. A token's result depends on none of this.
  const int64_t each = (call.n + threads - 1) / threads, rounds = (each + kTokens - 1) / kTokens;
  const int64_t tokens = round_up((each + rounds - 1) / rounds, 2 * kLanes);
  const int64_t items = (call.n + tokens - 1) / tokens, floats = HeadTiles<Amx>::floats(call);
  std::atomic<bool> fits{true};
  parallel_for(threads, items, 1, [&](int64_t begin, int64_t end) {
    float *memory = item_memory(floats);
    if (memory == nullptr) return fits.store(false);
    for (int64_t i = begin; i < end; i++)
      HeadTiles<Amx>(call, memory).run(i * tokens, std::min(call.n, (i + 1) * tokens));
  });
  return fits.load();
}

}  // namespace

bool takes_tiles(const HeadLoss &call) {
  const nt_weight &weight = *call.weight;
  return kPairs<bf16> && weight.data != nullptr && weight.in <= kMostInputs && call.n >= kFewestTokens;
}

int32_t head_loss(nt_context *context, const HeadLoss &call) {
  bool done = true;
  if constexpr (kPairs<bf16>)
    done = kAmx && has_amx(context) ? by_tiles<kAmx>(context->threads, call) : by_tiles<false>(context->threads, call);
  if (done) return NT_OK;
  return fail(NT_OUT_OF_MEMORY, "linear_cross_entropy: no memory for tiles of %lld inputs", (long long)call.weight->in);
}

}  // namespace nt
