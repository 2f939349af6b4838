// The head's loss and the gradient of its input in one pass over the weight, with an online softmax (as in
// FlashAttention, arXiv 2205.14135, where queries are x and keys and values both W): logits exist for a tile of tokens
// and vocabulary at a time, in the core's cache. They are computed transposed, [vocabulary, token]: every lane is a token.
#include "cross_entropy_tiles.h"

#include <atomic>

#include "cross_entropy_vectors.h"
#include "word_matmul.h"
#include "word_tiles_amx.h"

namespace nt {
namespace {

// With more inputs the sums for dx and everything else of a thread no longer stay in an L2 cache of 2 MB, and two plain
// products by AMX are as fast.
constexpr int64_t kMostAmxInputs = 1024;

class AmxHeadTiles {
 public:
  // Tokens that share a reading of the weight.
  static constexpr int64_t kTokens = 256;

  AmxHeadTiles(const HeadLoss &call, Parts parts) : call_(call), softmax_(call, parts, kTokens) {
    const int64_t H = call.weight->in;
    columns_ = round_up(H, 2 * kEdge);
    // Rows an odd number of cache lines apart fall into different sets.
    words_ = columns_ / 2;
    stride_ = words_ | kEdge;
    tile_ = parts.take(kRows * stride_);
    pairs_ = parts.take(columns_ * kPairStride);
    tokens_ = parts.take(kTokens * stride_);
    scores_ = parts.take(kRows * kPanel);
    probabilities_ = parts.take(kRows / 2 * kPanel);
    sums_ = parts.take(kTokens * columns_);
    used_ = parts.used;
  }
  int64_t used() const { return used_; }

  // The tokens [begin, end) of the call, at most kTokens.
  void run(int64_t begin, int64_t end) {
    [[maybe_unused]] const AmxTiles tiles{};
    const int64_t V = call_.weight->out, H = call_.weight->in;
    for (int64_t i = begin; i < end; i += kPanel) pack_tokens(i, begin, std::min(kPanel, end - i));
    for (int64_t v = 0; v < V; v += kRows) {
      const int64_t n = std::min(kRows, V - v);
      pack_rows<true, bf16>(tile_, n, H, stride_, [&](int64_t r) { return call_.weight_row<bf16>(v + r); });
      if (call_.dx != nullptr) pack_column_pairs(pairs_, kPairStride, tile_, n, stride_, columns_);
      for (int64_t i = begin; i < end; i += kPanel) panel(i, begin, std::min(kPanel, end - i), v, n);
    }
    for (int64_t i = begin; i < end; i++) finish(i, i - begin);
  }

 private:
  static constexpr int64_t kRows = 128, kPairStride = kRows / 2 + kEdge;  // of the weight, in a tile

  // Tokens from `first` on, transposed; the tile's memory is free meanwhile.
  void pack_tokens(int64_t first, int64_t begin, int64_t count) {
    const int64_t H = call_.weight->in;
    const bf16 *x = static_cast<const bf16 *>(call_.x);
    static_assert(kRows >= kPanel, "a panel of tokens passes through the memory of a tile of the weight");
    pack_rows<true, bf16>(tile_, count, H, stride_, [&](int64_t r) { return x + call_.rows[first + r] * H; });
    pack_transposed(tokens_ + (first - begin) * stride_, tile_, count, stride_);
  }

  // A panel of tokens from `first` on and the n rows of the weight from v on.
  void panel(int64_t first, int64_t begin, int64_t count, int64_t v, int64_t n) {
    const int64_t vectors = ceil_div(count, kLanes), at = first - begin, words = ceil_div(n, 2);
    multiply_amx(n, vectors, tile_, stride_, tokens_ + at * stride_, kPanel, scores_, kPanel, false,
                 [&](int64_t, int64_t, int64_t) { return Range{0, words_}; });
    const bool shrinks = softmax_.powers<true>(probabilities_, scores_, kPanel, at, first, count, v, n);
    if (call_.dx == nullptr) return;
    float *sums = sums_ + at * columns_;
    if (shrinks) shrink(sums, softmax_.shrink() + at, vectors);
    const int64_t whole = round_up(words, kEdge);
    memset(probabilities_ + words * kPanel, 0, size_t((whole - words) * kPanel) * 4);
    multiply_amx(columns_, vectors, pairs_, kPairStride, probabilities_, kPanel, sums, kPanel, v > 0,
                 [&](int64_t, int64_t, int64_t) { return Range{0, words}; });
  }

  void shrink(float *sums, const float *factors, int64_t vectors) {
    for (int64_t i = 0; i < columns_; i++)
      for (int64_t v = 0; v < vectors; v++) {
        float *at = sums + i * kPanel + v * kLanes;
        store(at, load(at) * load(factors + v * kLanes));
      }
  }

  // A token's loss and dx, in the order of the tokens; the tile's memory is free by now.
  void finish(int64_t token, int64_t at) {
    const RunningSoftmax::Result result = softmax_.result(at);
    call_.losses[token] = result.loss;
    if (call_.dx == nullptr) return;
    const int64_t lane = at % kPanel;
    if (lane % kLanes == 0) rows_of_columns(tile_, sums_ + (at - lane) * columns_ + lane, columns_);
    write_gradient<bf16>(call_, token, result, tile_ + lane % kLanes * columns_);
  }

  const HeadLoss &call_;
  RunningSoftmax softmax_;
  int64_t columns_;  // H in whole pairs of tiles
  int64_t words_, stride_, used_;
  float *tile_;           // [kRows, stride] of the weight
  float *pairs_;          // its pairs of rows: [columns, kPairStride]
  float *tokens_;         // [panels, stride, kPanel]
  float *scores_;         // [kRows, kPanel]
  float *probabilities_;  // [kRows / 2, kPanel], in pairs
  float *sums_;           // Σ e·W: [panels, columns, kPanel]
};

template <typename Tiles>
bool by_tiles(int threads, const HeadLoss &call) {
  // Every thread has the same number of items, of whole vectors of tokens. A token's result depends on none of this.
  const int64_t each = ceil_div(call.n, threads), rounds = ceil_div(each, Tiles::kTokens);
  const int64_t tokens = round_up(ceil_div(each, rounds), 32);
  const int64_t items = ceil_div(call.n, tokens), floats = Tiles(call, {nullptr}).used();
  std::atomic<bool> fits{true};
  parallel_for(threads, items, 1, [&](int64_t begin, int64_t end) {
    float *memory = item_memory(floats);
    if (memory == nullptr) return fits.store(false);
    for (int64_t i = begin; i < end; i++) Tiles(call, {memory}).run(i * tokens, std::min(call.n, (i + 1) * tokens));
  });
  return fits.load();
}

bool by_amx(nt_context *context, int32_t dtype) { return kAmx && dtype == NT_BF16 && has_amx(context); }

}  // namespace

bool takes_tiles(nt_context *context, int32_t dtype, int64_t H) {
  // Without AMX where products of many floats are ours.
  return by_amx(context, dtype) ? H <= kMostAmxInputs : words_multiply(context, NT_F32, kWordLeastRows);
}

int32_t head_loss(nt_context *context, const HeadLoss &call) {
  const int32_t dtype = call.weight->dtype;
  const int threads = context->threads;
  const bool done = by_amx(context, dtype) ? by_tiles<AmxHeadTiles>(threads, call)
                    : dtype == NT_F32      ? by_tiles<VectorTiles<float>>(threads, call)
                                           : by_tiles<VectorTiles<bf16>>(threads, call);
  if (done) return NT_OK;
  return fail(NT_OUT_OF_MEMORY, "linear_cross_entropy: no memory for tiles of %lld inputs", (long long)call.weight->in);
}

}  // namespace nt
