// Tiles of the head's loss by the instructions for vectors, of float32 or bf16; as words (word_tiles.h), bf16 is widened
// where the CPU multiplies only floats.
#pragma once
#include <string.h>

#include <algorithm>
#include <type_traits>

#include "cross_entropy_softmax.h"
#include "word_block.h"
#include "word_packing.h"

namespace nt {

template <typename T>
class VectorTiles {
 public:
  // Tokens that share a reading of the weight.
  static constexpr int64_t kTokens = 256;

  VectorTiles(const HeadLoss &call, Parts parts) : call_(call), softmax_(call, parts, kTokens) {
    const int64_t H = call.weight->in;
    words_ = P::words(H);
    strips_ = ceil_div(H, kStrip);
    tile_ = std::clamp(kTileWords / words_ / kBlock * kBlock, kLeastRows, kMostRows);
    hop_ = (tile_ + kApart) * kStrip;
    rows_ = parts.take(ceil_div(words_, kStrip) * hop_);
    column_hop_ = P::pairs ? tile_ / P::values * kStrip : hop_;
    columns_ = P::pairs ? parts.take(strips_ * column_hop_) : rows_;
    tokens_ = parts.take(kTokens * words_);
    scores_ = parts.take(kMostRows * kScores);
    sums_ = parts.take(strips_ * kTokens * kStrip);
    used_ = parts.used;
  }
  int64_t used() const { return used_; }

  // The tokens [begin, end) of the call, at most kTokens.
  void run(int64_t begin, int64_t end) {
    const int64_t V = call_.weight->out, count = end - begin;
    for (int64_t i = 0; i < count; i += kStrip) pack_tokens(tokens_ + i * words_, begin + i, std::min(kStrip, count - i));
    for (int64_t v = 0; v < V; v += tile_) {
      const int64_t n = std::min(tile_, V - v);
      pack_weight(v, n);
      score(v, count, n);
      const bool shrinks = softmax_.template powers<P::pairs>(scores_, scores_, kScores, 0, begin, count, v, n);
      if (call_.dx == nullptr) continue;
      if (shrinks) shrink(count);
      add(count, P::words(n), v > 0);
    }
    for (int64_t i = 0; i < count; i++) finish(begin + i, i);
  }

 private:
  typedef Packing<T> P;
  static constexpr int64_t kBlock = kAccumulators / kVectors;  // rows of a micro-kernel
  // Of the weight, in a tile: rows, fewer where more words would no longer stay in the L2 cache.
  static constexpr int64_t kLeastRows = 8 * kBlock, kMostRows = 192, kTileWords = (kLanes == 16 ? 108 : 54) << 10;
  // Of an L1 cache of 32 KB a whole strip of tokens would push out what it is multiplied with: words taken at a time.
  static constexpr int64_t kDeepest = kLanes == 16 ? INT64_MAX : 320;
  // Rows of no use between two strips of the weight: where a row is one cache line, the strips of an even number of rows
  // fall into few of the cache's sets.
  static constexpr int64_t kApart = kLanes == 16 ? 0 : 1;
  static constexpr int64_t kScores = kTokens + 16;  // an odd number of cache lines
  static constexpr int64_t kLine = 64;

  // tokens[words, kStrip] from the call's `first` on, zeros beyond `count`.
  void pack_tokens(float *to, int64_t first, int64_t count) const {
    const int64_t H = call_.weight->in;
    const T *x = static_cast<const T *>(call_.x);
    for (int64_t i = 0; i < kStrip; i += kLanes)
      for (int64_t w = 0; w < words_; w += kLanes) {
        const int64_t k = w * P::values;
        Vec block[kLanes];
        for (int64_t j = 0; j < kLanes; j++)
          block[j] = i + j < count ? P::along(x + call_.rows[first + i + j] * H + k, H - k) : Vec{};
        transpose(block);
        for (int64_t j = 0; j < std::min<int64_t>(kLanes, words_ - w); j++) store(to + (w + j) * kStrip + i, block[j]);
      }
  }

  // rows[strips of words, tile + kApart, kStrip] = the weight's n rows from v on; columns[strips, words of the tile, kStrip]
  // the same rows in pairs, where a word is a pair.
  void pack_weight(int64_t v, int64_t n) const {
    const int64_t H = call_.weight->in;
    for (int64_t r = 0; r < n; r++) {
      const T *row = call_.weight_row<T>(v + r);
      for (int64_t w = 0; w < words_; w += kLanes)
        store(rows_ + w / kStrip * hop_ + r * kStrip + w % kStrip, P::along(row + w * P::values, H - w * P::values));
    }
    if (!P::pairs || call_.dx == nullptr) return;
    for (int64_t r = 0; r < n; r += P::values) {
      const T *row = call_.weight_row<T>(v + r), *next = r + 1 < n ? call_.weight_row<T>(v + r + 1) : nullptr;
      float *to = columns_ + r / P::values * kStrip;
      for (int64_t k = 0; k < H; k += kLanes)
        store(to + k / kStrip * column_hop_ + k % kStrip,
              P::across(row + k, next == nullptr ? next : next + k, H - k));
    }
  }

  // A cache line from `next` on is asked for with every kUnrolled words, to be in the L2 cache when it is needed.
  static auto asking(const char *&next) {
    return [&next] {
      __builtin_prefetch(next, 0, 2);
      next += kLine;
    };
  }

  // scores[M, N vectors] (+)= weight[M, words]·tokens[words, kStrip], the weight in strips.
  template <int M, int N>
  static __attribute__((noinline)) void score_block(int64_t words, const float *weight, int64_t hop, const float *tokens,
                                                    float *scores, bool add, const char *next) {
    WordBlock<P::pairs, M, N> block;
    block.begin(scores, kScores, add);
    for (; words > 0; words -= kStrip, weight += hop, tokens += kStrip * kStrip)
      block.multiply(std::min(words, kStrip), weight, kStrip, 1, tokens, kStrip, asking(next));
    block.end(scores, kScores);
  }

  // sums[M, N vectors] (+)= powers[words, M]ᵀ·weight[words, kStrip].
  template <int M, int N>
  static __attribute__((noinline)) void sum_block(int64_t words, const float *powers, const float *weight, float *sums,
                                                  bool add) {
    WordBlock<P::pairs, M, N> block;
    block.begin(sums, kStrip, add);
    const char *next = reinterpret_cast<const char *>(sums + M * kStrip);
    for (int64_t line = 0; line < M * N; line++) __builtin_prefetch(next + line * kLine, 1);
    block.multiply(words, powers, 1, kScores, weight, kStrip, asking(next));
    block.end(sums, kStrip);
  }

  // run(M, N) with the constants for m rows and n vectors.
  template <int M = int(kBlock), int N = kVectors, typename Run>
  static void with_size(int64_t m, int64_t n, const Run &run) {
    if (N > 1 && n < N) return with_size<M, (N > 1 ? N - 1 : 1)>(m, n, run);
    if (M > 1 && m < M) return with_size<(M > 1 ? M - 1 : 1), N>(m, n, run);
    run(std::integral_constant<int, M>(), std::integral_constant<int, N>());
  }

  // scores[n, kScores] = the tile's n rows times the tokens.
  void score(int64_t v, int64_t count, int64_t n) const {
    const int64_t deep = words_ <= kDeepest ? words_ : round_up(ceil_div(words_, ceil_div(words_, kDeepest)), kStrip);
    for (int64_t k = 0; k < words_; k += deep)
      for (int64_t i = 0; i < count; i += kStrip)
        for (int64_t r = 0; r < n; r += kBlock) score_words(v, r, i, k, std::min(deep, words_ - k), n - r, count - i);
  }

  // Of that, kBlock rows from r on and kStrip tokens from i on, `rows` and `tokens` of which are there, words [k, k + words).
  void score_words(int64_t v, int64_t r, int64_t i, int64_t k, int64_t words, int64_t rows, int64_t tokens) const {
    // The rows of the next tile that this block's will be, those of the strips of tokens in turn.
    const char *ahead = reinterpret_cast<const char *>(call_.weight_row<T>(std::min(v + tile_ + r, call_.weight->out - 1)));
    with_size(rows, ceil_div(tokens, kLanes), [&](auto M, auto N) {
      score_block<M, N>(words, rows_ + k / kStrip * hop_ + r * kStrip, hop_, tokens_ + i * words_ + k * kStrip,
                        scores_ + r * kScores + i, k > 0,
                        ahead + (i / kStrip * (words_ / kUnrolled) + k / kUnrolled) * kLine);
    });
  }

  // sums[strips, kTokens, kStrip] (+)= e·W over the tile's words of rows.
  void add(int64_t count, int64_t words, bool add) const {
    for (int64_t s = 0; s < strips_; s++)
      for (int64_t i = 0; i < count; i += kBlock)
        with_size(count - i, ceil_div(call_.weight->in - s * kStrip, kLanes), [&](auto M, auto N) {
          sum_block<M, N>(words, scores_ + i, columns_ + s * column_hop_, sums_ + (s * kTokens + i) * kStrip, add);
        });
  }

  void shrink(int64_t count) const {
    for (int64_t i = 0; i < count; i++) {
      const float factor = softmax_.shrink()[i];
      if (factor == 1) continue;
      for (int64_t s = 0; s < strips_; s++)
        for (int64_t j = 0; j < kStrip; j += kLanes) {
          float *at = sums_ + (s * kTokens + i) * kStrip + j;
          store(at, load(at) * splat(factor));
        }
    }
  }

  // A token's loss and dx, in the order of the tokens; the weight's memory is free by now.
  void finish(int64_t token, int64_t at) const {
    const RunningSoftmax::Result result = softmax_.result(at);
    call_.losses[token] = result.loss;
    if (call_.dx == nullptr) return;
    for (int64_t s = 0; s < strips_; s++) memcpy(rows_ + s * kStrip, sums_ + (s * kTokens + at) * kStrip, kStrip * 4);
    write_gradient<T>(call_, token, result, rows_);
  }

  const HeadLoss &call_;
  RunningSoftmax softmax_;
  int64_t words_, strips_;    // of a row, of kStrip inputs
  int64_t tile_, used_;       // rows of the weight in a tile; floats of memory
  int64_t hop_, column_hop_;  // floats from one strip of rows_ and of columns_ to the next
  float *rows_, *columns_;    // of the weight's tile; without pairs the same
  float *tokens_;             // [strips, words, kStrip]
  float *scores_;             // [tile, kScores] logits, then their powers
  float *sums_;               // Σ e·W
};

}  // namespace nt
