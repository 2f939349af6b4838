// Causal attention by tiles with an online softmax (FlashAttention, arXiv 2205.14135, algorithm 1; 2307.08691):
//   s = scale · q·kᵀ,  p = exp(s − m),  o = Σ p·v / Σ p,  lse = m + log Σ p.
// Scores are computed transposed, Sᵀ[key, row]: every lane is a query row, and maxima and sums need no lane tricks.
#include <type_traits>

#include "attention_amx.h"
#include "attention_products.h"

namespace nt {
namespace {

template <typename T>
struct Forward {
  AttentionSize size;
  T *o;
  int64_t ldo;
  float *lse;
  const T *q;
  int64_t ldq;
  const T *k, *v;
  int64_t ldkv;

  // Of x, k or v, the row at position 0 of a sample's key/value head.
  const T *keys_of(const T *x, int64_t s, int64_t kv_head) const {
    if (size.slots == nullptr) return x + size.borders[s] * ldkv + kv_head * size.head_dim;
    return x + (size.slots[s] * size.kv_heads + kv_head) * size.capacity * ldkv;
  }
};

// Where a work item keeps its operands, in words.
struct Buffers {
  float *keys;         // [keys, stride]
  float *values;       // [keys (or pairs of them), columns]; with AMX [columns, value_stride], of pairs of keys
  int64_t value_stride;
  float *rows;         // [kPanel, stride]
  float *queries;      // [stride, kPanel]
  float *scores;       // [kTile, kPanel], then the probabilities
  float *out;          // [kPanel, columns]; with AMX its transpose
  float *top, *total;  // [kPanel] the maximum that p is relative to (times log₂ e); Σ p
  float *shrink;       // [kPanel] what a new maximum scales earlier sums by
};

template <bool Amx>
int64_t place(Buffers *buffers, float *memory, int64_t keys, const HeadSize &head) {
  Parts parts = {memory};
  keys = round_up(keys, 2);
  Buffers &b = *buffers;
  if constexpr (Amx) {
    b.keys = parts.take((keys + kEdge) * head.stride);
    b.value_stride = amx_stride(keys / 2);
    b.values = parts.take(head.columns * b.value_stride);
  } else {
    b.keys = parts.take(keys * head.stride);
    b.value_stride = 0;
    b.values = parts.take(keys * head.columns);
  }
  b.rows = parts.take(kPanel * head.stride);
  b.queries = parts.take(kPanel * head.stride);
  b.scores = parts.take(kTile * kPanel);
  b.out = parts.take(kPanel * head.columns);
  b.top = parts.take(kPanel);
  b.total = parts.take(kPanel);
  b.shrink = parts.take(kPanel);
  return parts.used;
}

// A running maximum may lag behind by this much (p stays below 2⁸) before earlier sums are scaled down.
constexpr float kLag = 8.0f;

// The keys whose tiles a panel works on. Over a cache tiles begin at multiples of kTile, whatever the panel begins with:
// what a query gets must not depend on how many are read with it. A row may then see nothing of its panel's first tile.
Keys tiled_keys(const AttentionSize &size, int64_t length, int64_t panel, int64_t start) {
  const Keys keys = panel_keys(size, length, panel, start);
  return {size.slots == nullptr ? keys.begin : keys.begin / kTile * kTile, keys.end};
}

// From scores to probabilities of the tile's n keys from `start` on, for the rows of the W vectors from `v` on; true when
// sums so far must shrink. `first`: there are none yet. Zeros follow the probabilities up to whole `Zeros` words of keys.
// A row's maximum is −∞ until it sees a key. Most keys are seen by all the rows: these go key by key, W vectors at once.
template <typename T, int64_t Zeros, int W>
bool softmax(const Buffers &buffers, const Panel &panel, int64_t v, int64_t start, int64_t n, bool first, float scale) {
  constexpr bool Pairs = kPairs<T>;
  const Vec least = splat(-__builtin_inff()), factor = splat(scale * kLog2E);
  float *scores = buffers.scores + v * kLanes;
  const auto at = [=](int w, int64_t k) { return scores + k * kPanel + w * kLanes; };
  Panel::Seen seen[W];
#pragma unroll
  for (int w = 0; w < W; w++) seen[w] = panel.seen_by(v + w, start, n);
  const Keys all = Panel::seen_by_all(seen, n);

  Vec tops[W];
  const auto tops_up_to = [&](int w, int64_t k, int64_t end) {
    for (; k < end; k++) {
      Vec s = load(at(w, k));
      if (k < seen[w].all_begin || k >= seen[w].all_end) {
        s = select(panel.sees(v + w, start + k), s, least);
        store(at(w, k), s);
      }
      tops[w] = max(s, tops[w]);
    }
  };
#pragma unroll
  for (int w = 0; w < W; w++) {
    tops[w] = least;
    tops_up_to(w, seen[w].begin, std::min(all.begin, seen[w].end));
    tops_up_to(w, all.end, seen[w].end);
  }
  for (int64_t k = all.begin; k < all.end; k += 2)
#pragma unroll
    for (int w = 0; w < W; w++) tops[w] = max(max(load(at(w, k)), load(at(w, k + 1))), tops[w]);

  bool shrinks = false;
  Vec totals[W];
#pragma unroll
  for (int w = 0; w < W; w++) {
    Vec top = tops[w] * factor, old = least;
    float *top_at = buffers.top + (v + w) * kLanes, *total_at = buffers.total + (v + w) * kLanes;
    if (!first) {
      old = load(top_at);
      VecI grows = top > old + splat(kLag);
      top = select(grows, top, old);
      shrinks = shrinks || any(grows);
    }
    store(top_at, top);
    tops[w] = top = select(top == least, Vec{}, top);  // −∞ − (−∞) would be NaN, not the 0 that such a p is
    totals[w] = Vec{};
    if (!first) {
      Vec shrink = exp2<false>(old - top);
      store(buffers.shrink + (v + w) * kLanes, shrink);
      totals[w] = load(total_at) * shrink;
    }
  }

  const auto probability = [&](int w, int64_t k) {
    Vec p = exp2<sizeof(T) == 2>(fma(load(at(w, k)), factor, -tops[w]));
    totals[w] += p;
    return p;
  };
  const auto probabilities = [&](int w, int64_t k) {
    if constexpr (Pairs) {
      Vec p = probability(w, k);
      store(at(w, k / 2), pair_words(p, probability(w, k + 1)));
    } else {
      store(at(w, k), probability(w, k));
      store(at(w, k + 1), probability(w, k + 1));
    }
  };
  const auto probabilities_up_to = [&](int w, int64_t k, int64_t end) {
    for (; k + 2 <= end; k += 2) probabilities(w, k);
    if (k < end) store(at(w, Pairs ? k / 2 : k), Pairs ? pair_words(probability(w, k), Vec{}) : probability(w, k));
  };
  constexpr int64_t pair = Pairs ? 2 : 1;
#pragma unroll
  for (int w = 0; w < W; w++) {
    for (int64_t k = 0; k < seen[w].begin / pair; k++) store(at(w, k), Vec{});
    probabilities_up_to(w, seen[w].begin, std::min(all.begin, seen[w].end));
  }
  for (int64_t k = all.begin; k < all.end; k += 2)
#pragma unroll
    for (int w = 0; w < W; w++) probabilities(w, k);
#pragma unroll
  for (int w = 0; w < W; w++) {
    probabilities_up_to(w, all.end, seen[w].end);
    for (int64_t k = ceil_div(seen[w].end, pair); k < round_up(ceil_div(n, pair), Zeros); k++) store(at(w, k), Vec{});
    store(buffers.total + (v + w) * kLanes, totals[w]);
  }
  return shrinks;
}

template <typename T, int64_t Zeros>
bool softmax(const Buffers &buffers, const Panel &panel, int64_t start, int64_t n, bool first, float scale) {
  bool shrinks = false;
  int64_t v = 0;
  for (; v + kVectors <= panel.vectors; v += kVectors)
    shrinks = softmax<T, Zeros, kVectors>(buffers, panel, v, start, n, first, scale) || shrinks;
  for (; v < panel.vectors; v++) shrinks = softmax<T, Zeros, 1>(buffers, panel, v, start, n, first, scale) || shrinks;
  return shrinks;
}

// Scales the sums so far of the panel's rows by `shrink`.
template <bool Amx>
void shrink_sums(const Buffers &buffers, const HeadSize &head, const Panel &panel) {
  if constexpr (Amx) {
    for (int64_t i = 0; i < head.columns; i++)
      for (int64_t v = 0; v < panel.vectors; v++) {
        float *out = buffers.out + i * kPanel + v * kLanes;
        store(out, load(out) * load(buffers.shrink + v * kLanes));
      }
  } else {
    for (int64_t r = 0; r < panel.rows; r++)
      if (buffers.shrink[r] != 1.0f)
        for (int64_t i = 0; i < head.columns; i += kLanes) {
          float *out = buffers.out + r * head.columns + i;
          store(out, load(out) * splat(buffers.shrink[r]));
        }
  }
}

// The tiles of `keys`; buffers hold keys from `packed` on. The rows of the panel `next` are asked for meanwhile.
template <typename T, bool Amx>
void panel_forward(const Forward<T> &call, const Buffers &buffers, const HeadSize &head, const Panel &panel,
                   const Panel &next, Keys keys, int64_t packed, int64_t token) {
  constexpr bool Pairs = kPairs<T>;
  constexpr int64_t pair = Pairs ? 2 : 1;
  const int64_t head_dim = call.size.head_dim;
  pack_rows<Pairs, T>(buffers.rows, panel.rows, head_dim, head.stride, [&](int64_t r) {
    return call.q + (token + panel.position[r]) * call.ldq + panel.head[r] * head_dim;
  });
  pack_transposed(buffers.queries, buffers.rows, panel.rows, head.stride);

  const int64_t ahead = rows_at_a_time(keys, 2);
  int64_t asked = 0;
  const auto ask = [&] {
    ask_for_rows<0>(next, call.q + token * call.ldq, call.ldq, head_dim, asked, asked + ahead);
    ask_for_rows<1>(next, call.o + token * call.ldo, call.ldo, head_dim, asked, asked + ahead);
    asked += ahead;
  };
  for (int64_t start = keys.begin; start < keys.end; start += kTile) {
    const int64_t n = std::min(kTile, keys.end - start), at = start - packed;
    const bool first = start == keys.begin;
    const float *tile_keys = buffers.keys + at * head.stride;
    // Sᵀ[key, row] = K·Qᵀ
    if constexpr (Amx)
      scores_amx(panel, start, n, head, tile_keys, buffers.queries, buffers.scores);
    else
      scores_of_tile<Pairs>(panel, start, n, head, tile_keys, buffers.queries, buffers.scores);
    ask();
    if (softmax<T, Amx ? kLanes : 1>(buffers, panel, start, n, first, call.size.scale))
      shrink_sums<Amx>(buffers, head, panel);
    // O[row, column] += P·V
    if constexpr (Amx)
      sum_keys_amx(panel, start, n, head, buffers.values + at / pair, buffers.value_stride, buffers.scores, buffers.out,
                   !first);
    else
      sum_keys<Pairs>(panel, start, n, head, buffers.scores, buffers.values + at / pair * head.columns, buffers.out,
                      !first);
    ask();
  }

  const float *rows = buffers.out;
  for (int64_t r = 0; r < panel.rows; r++) {
    if constexpr (Amx) {
      if (r % kLanes == 0) rows_of_columns(buffers.scores, buffers.out + r, head.columns);
      rows = buffers.scores - r / kLanes * kLanes * head.columns;
    }
    store_row(call.o + (token + panel.position[r]) * call.ldo + panel.head[r] * head_dim, rows + r * head.columns,
              1.0f / buffers.total[r], head_dim);
  }
  if (call.lse == nullptr) return;
  for (int64_t v = 0; v < panel.vectors; v++)
    store(buffers.shrink + v * kLanes,
          (load(buffers.top + v * kLanes) + log2(load(buffers.total + v * kLanes))) * splat(kLn2));
  for (int64_t r = 0; r < panel.rows; r++)
    call.lse[panel.head[r] * call.size.tokens + token + panel.position[r]] = buffers.shrink[r];
}

// The keys of all the panels of an item.
Keys item_keys(const AttentionSize &size, const Work &item) {
  const int64_t length = size.length(item.sequence), start = size.start(item.sequence);
  return {tiled_keys(size, length, item.begin, start).begin, tiled_keys(size, length, item.end - 1, start).end};
}

template <typename T, bool Amx>
int32_t forward(int threads, const Forward<T> &call) {
  constexpr bool Pairs = kPairs<T>;
  const AttentionSize &size = call.size;
  const HeadSize head = head_size<Pairs>(size.head_dim);

  // An item is a run of panels of one key/value head, which share packed keys and values.
  int64_t total = 0, most = 0;
  for (int64_t s = 0; s < size.sequences; s++) {
    const int64_t length = size.length(s), start = size.start(s), panels = panel_count(size, length, start);
    for (int64_t panel = 0; panel < panels; panel++) total += tiled_keys(size, length, panel, start).count();
    most += panels;
  }
  most *= size.kv_heads;
  total *= size.kv_heads;
  int64_t share = threads == 1 ? total : total / (threads * 6) + 1;
  Work *items = work_list(most);
  if (items == nullptr) return fail(NT_OUT_OF_MEMORY, "attention_forward: no memory for %lld items", (long long)most);
  int64_t count = 0, longest = 0;
  for (int64_t s = 0; s < size.sequences; s++) {
    const int64_t length = size.length(s), start = size.start(s), panels = panel_count(size, length, start);
    for (int64_t h = 0; h < size.kv_heads; h++)
      for (int64_t panel = 0; panel < panels;) {
        Work item = {0, int32_t(s), int32_t(h), int32_t(panel), 0, 0};
        auto keys = [&] { return tiled_keys(size, length, panel, start).count(); };
        for (; panel < panels && (item.cost == 0 || item.cost + keys() <= share); panel++) item.cost += keys();
        item.end = int32_t(panel);
        longest = std::max(longest, item_keys(size, item).count());
        items[count++] = item;
      }
  }

  Buffers sizes;
  int64_t floats = place<Amx>(&sizes, nullptr, longest, head);
  bool done = run_longest_first(threads, items, count, floats, [&](const Work &item, float *memory) {
    [[maybe_unused]] const std::conditional_t<Amx, AmxTiles, int> tiles{};
    const int64_t length = size.length(item.sequence), start = size.start(item.sequence);
    const Keys keys = item_keys(size, item);
    Buffers buffers;
    place<Amx>(&buffers, memory, keys.count(), head);
    auto row_of = [&](const T *x) {
      const T *first = call.keys_of(x, item.sequence, item.kv_head) + keys.begin * call.ldkv;
      return [=, ld = call.ldkv](int64_t r) { return first + r * ld; };
    };
    if constexpr (Pairs) {
      pack_rows<true, T>(buffers.keys, keys.count(), size.head_dim, head.stride, row_of(call.v));
      if constexpr (Amx)
        pack_column_pairs(buffers.values, buffers.value_stride, buffers.keys, keys.count(), head.stride, head.columns);
      else
        pack_row_pairs(buffers.values, buffers.keys, keys.count(), head.stride, head.columns);
    } else {
      pack_rows<false, T>(buffers.values, keys.count(), size.head_dim, head.columns, row_of(call.v));
    }
    pack_rows<Pairs, T>(buffers.keys, keys.count(), size.head_dim, head.stride, row_of(call.k));
    Panel next(size, length, item.kv_head, item.begin, start);
    for (int64_t panel = item.begin; panel < item.end; panel++) {
      const Panel current = next;
      next = Panel(size, length, item.kv_head, std::min<int64_t>(panel + 1, item.end - 1), start);
      panel_forward<T, Amx>(call, buffers, head, current, next, tiled_keys(size, length, panel, start), keys.begin,
                            size.row(item.sequence));
    }
  });
  if (!done)
    return fail(NT_OUT_OF_MEMORY, "attention_forward: no memory for %lld floats a thread", (long long)floats);
  return NT_OK;
}

template <typename T>
int32_t forward(nt_context *context, const Forward<T> &call) {
  if constexpr (kAmx && kPairs<T>)
    if (has_amx(context)) return forward<T, true>(context->threads, call);
  return forward<T, false>(context->threads, call);
}

template <typename T>
int32_t attention_forward(nt_context *context, const AttentionSize &size, T *o, int64_t ldo, float *lse, const T *q,
                          const T *k, const T *v, int64_t ldqkv) {
  return forward(context, Forward<T>{size, o, ldo, lse, q, ldqkv, k, v, ldqkv});
}

template <typename T>
int32_t attention_cached(nt_context *context, const AttentionSize &size, T *o, int64_t ldo, const T *q, int64_t ldq,
                         const T *k_cache, const T *v_cache) {
  return forward(context, Forward<T>{size, o, ldo, nullptr, q, ldq, k_cache, v_cache, size.head_dim});
}

}  // namespace
}  // namespace nt

#include "../entry/attention_cached.h"
#include "../entry/attention_forward.h"
