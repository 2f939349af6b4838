// The backward pass of causal attention by tiles (FlashAttention-2, arXiv 2307.08691, algorithm 2). With
// p = exp(scale · q·kᵀ − lse) and delta = Σ do∘o:
//   dv = pᵀ·do,  ds = p ∘ (do·vᵀ − delta),  dq = scale · ds·k,  dk = scale · dsᵀ·q.
// A key/value head of a sequence is the work of one thread, five products a tile. Where that leaves threads without
// work, heads are split into runs of key tiles that make dk and dv, and runs of panels that make dq; both compute ds,
// and every sum keeps its order: the result does not depend on the split or on the number of threads.

#include <type_traits>

#include "attention_amx.h"
#include "attention_backward_work.h"
#include "attention_products.h"
#include "rope.h"

namespace nt {
namespace {

template <typename T>
struct Backward {
  AttentionSize size;
  T *dq, *dk, *dv;
  int64_t ldd;
  float *delta;
  const T *dout, *o;
  int64_t ldo;
  const T *q, *k, *v;
  int64_t ld;
  const float *lse;
};

// Where a work item keeps its operands, in words. Pair rows are rows paired up with the next one.
struct Buffers {
  float *keys, *values;           // [keys, stride]
  float *key_pairs;               // [keys or pairs, columns]; with AMX [columns, key_stride], of pairs
  int64_t key_stride;
  float *dkeys, *dvalues;         // [keys, columns]
  float *rows, *douts;            // [kPanel, stride] of q and do
  float *queries, *gradients;     // [stride, kPanel], their transposes
  float *row_pairs, *dout_pairs;  // [kPanel or pairs, columns]
  float *scores, *dscores;        // [kTile, kPanel]
  float *p_words, *ds_words;      // [kTile, kPanel or pairs]: words in the direction of the rows
  float *ds_pairs;                // [kTile or pairs, kPanel]: words in the direction of the keys
  float *dqueries;                // [kPanel, columns]; with AMX its transpose
  float *lse, *delta;             // [kPanel], lse times log₂ e
};

template <bool Pairs, bool Amx>
int64_t place(Buffers *buffers, float *memory, int64_t keys, bool sums, const HeadSize &head) {
  Parts parts = {memory};
  Buffers &b = *buffers;
  keys = round_up(keys, 2);
  b.key_stride = 0;
  if constexpr (Amx) {
    b.key_stride = amx_stride(keys / 2);
    b.key_pairs = parts.take(head.columns * b.key_stride);
    keys += kEdge;
  }
  b.keys = parts.take(keys * head.stride);
  b.values = parts.take(keys * head.stride);
  if constexpr (!Amx) b.key_pairs = Pairs ? parts.take(keys / 2 * head.columns) : b.keys;
  b.dkeys = sums ? parts.take(keys * head.columns) : nullptr;
  b.dvalues = sums ? parts.take(keys * head.columns) : nullptr;
  b.rows = parts.take(kPanel * head.stride);
  b.douts = parts.take(kPanel * head.stride);
  b.queries = parts.take(kPanel * head.stride);
  b.gradients = parts.take(kPanel * head.stride);
  b.row_pairs = Pairs ? parts.take(kPanel / 2 * head.columns) : b.rows;
  b.dout_pairs = Pairs ? parts.take(kPanel / 2 * head.columns) : b.douts;
  b.scores = parts.take(kTile * kPanel);
  b.dscores = parts.take(kTile * kPanel);
  b.p_words = Pairs ? parts.take(kTile * kPanel / 2) : b.scores;
  b.ds_words = Pairs ? parts.take(kTile * kPanel / 2) : b.dscores;
  b.ds_pairs = Pairs ? parts.take(kTile * kPanel / 2) : b.dscores;
  b.dqueries = parts.take(kPanel * head.columns);
  b.lse = parts.take(kPanel);
  b.delta = parts.take(kPanel);
  return parts.used;
}

// delta[h, t] = Σ do[t, h]∘o[t, h]
template <typename T>
void row_products(int threads, const Backward<T> &call) {
  const AttentionSize &size = call.size;
  const int64_t width = size.heads * size.head_dim;
  parallel_for(threads, size.tokens, 1 + (1 << 16) / width, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
      for (int64_t h = 0; h < size.heads; h++) {
        const T *a = call.dout + t * call.ldo + h * size.head_dim, *b = call.o + t * call.ldo + h * size.head_dim;
        Vec total = Vec{};
        int64_t i = 0;
        for (; i + kLanes <= size.head_dim; i += kLanes) total = fma(load(a + i), load(b + i), total);
        if (i < size.head_dim)
          total = fma(load_part(a + i, size.head_dim - i), load_part(b + i, size.head_dim - i), total);
        call.delta[h * size.tokens + t] = sum(total);
      }
  });
}

// From scores and do·vᵀ of the tile's n keys from `start` on to p and ds, as words for the products that follow, for the
// rows of the W vectors from `v` on. Most keys are seen by all the rows: these go key by key, W vectors at once.
template <typename T, bool Amx, int W>
void softmax_backward(const Buffers &buffers, const Panel &panel, int64_t v, int64_t start, int64_t n, float scale) {
  constexpr bool Pairs = kPairs<T>;
  constexpr int64_t pair = Pairs ? 2 : 1, width = kPanel / pair, lanes_wide = kLanes / pair;
  const Vec factor = splat(scale * kLog2E), least = splat(-__builtin_inff());
  const float *scores = buffers.scores + v * kLanes, *dscores = buffers.dscores + v * kLanes;
  float *p_words = buffers.p_words + v * lanes_wide, *ds_words = buffers.ds_words + v * lanes_wide;
  float *ds_pairs = buffers.ds_pairs + v * kLanes;
  Panel::Seen seen[W];
  Vec lse[W], delta[W];
#pragma unroll
  for (int w = 0; w < W; w++) {
    seen[w] = panel.seen_by(v + w, start, n);
    lse[w] = load(buffers.lse + (v + w) * kLanes);
    delta[w] = load(buffers.delta + (v + w) * kLanes);
  }
  const Keys all = Panel::seen_by_all(seen, n);

  // p and ds of one key, 0 for rows that do not see it.
  const auto values = [&](int w, int64_t k, bool masked, Vec *p, Vec *ds) {
    Vec x = fma(load(scores + k * kPanel + w * kLanes), factor, -lse[w]);
    if (masked && (k < seen[w].all_begin || k >= seen[w].all_end)) x = select(panel.sees(v + w, start + k), x, least);
    *p = exp2<sizeof(T) == 2>(x);
    *ds = *p * (load(dscores + k * kPanel + w * kLanes) - delta[w]);
  };
  const auto put = [&](int w, int64_t k, Vec p, Vec ds) {
    store_words<Pairs>(p_words + k * width + w * lanes_wide, p);
    store_words<Pairs>(ds_words + k * width + w * lanes_wide, ds);
  };
  const auto put_pair = [&](int w, int64_t k, Vec words) { store(ds_pairs + k / 2 * kPanel + w * kLanes, words); };
  // Of a pair of keys, or of one where keys do not pair up.
  const auto put_values = [&](int w, int64_t k, bool masked) {
    Vec p, ds;
    values(w, k, masked, &p, &ds);
    if constexpr (Pairs) {
      Vec next_p, next_ds;
      values(w, k + 1, masked, &next_p, &next_ds);
      const int64_t at = k * width + w * lanes_wide;
      const Vec both = halves(ds, next_ds);
      store_halves(p_words + at, p_words + at + width, halves(p, next_p));
      store_halves(ds_words + at, ds_words + at + width, both);
      put_pair(w, k, interleaved(both));
    } else {
      put(w, k, p, ds);
    }
  };
  const auto zero_up_to = [&](int w, int64_t k, int64_t end) {
    for (; k < end; k++) {
      put(w, k, Vec{}, Vec{});
      if (Pairs && k % 2 == 0) put_pair(w, k, Vec{});
    }
  };
  const auto some_see = [&](int w, int64_t k, int64_t end) {
    for (; k + pair <= end; k += pair) put_values(w, k, true);
    if (!Pairs || k == end) return;
    Vec p, ds;
    values(w, k, true, &p, &ds);
    put(w, k, p, ds);
    put_pair(w, k, pair_words(ds, Vec{}));
    if (k + 1 < n) put(w, k + 1, Vec{}, Vec{});
  };
#pragma unroll
  for (int w = 0; w < W; w++) {
    zero_up_to(w, 0, seen[w].begin);
    some_see(w, seen[w].begin, std::min(all.begin, seen[w].end));
  }
  for (int64_t k = all.begin; k < all.end; k += pair)
#pragma unroll
    for (int w = 0; w < W; w++) put_values(w, k, false);
#pragma unroll
  for (int w = 0; w < W; w++) {
    some_see(w, all.end, seen[w].end);
    zero_up_to(w, round_up(seen[w].end, pair), n);
    if constexpr (Amx) {
      for (int64_t k = n; k < round_up(n, kEdge); k++) put(w, k, Vec{}, Vec{});
      for (int64_t k = (n + 1) / 2; k < round_up((n + 1) / 2, kEdge); k++) put_pair(w, 2 * k, Vec{});
    }
  }
}

template <typename T, bool Amx>
void softmax_backward(const Buffers &buffers, const Panel &panel, int64_t start, int64_t n, float scale) {
  constexpr int kAtOnce = kPairs<T> ? 2 : kVectors;  // with pairs, four are slower
  int64_t v = 0;
  for (; v + kAtOnce <= panel.vectors; v += kAtOnce)
    softmax_backward<T, Amx, kAtOnce>(buffers, panel, v, start, n, scale);
  for (; v < panel.vectors; v++) softmax_backward<T, Amx, 1>(buffers, panel, v, start, n, scale);
  // Rows of vectors that pair up with the last one are read with it.
  if constexpr (Amx)
    if (panel.vectors % 2 == 1)
      for (int64_t k = 0; k < round_up(n, kEdge); k++)
        for (float *words : {buffers.p_words, buffers.ds_words})
          store_words<true>(words + k * kPanel / 2 + panel.vectors * kLanes / 2, Vec{});
}

template <typename T, bool Amx>
void pack_panel(const Backward<T> &call, const Buffers &buffers, const HeadSize &head, const Panel &panel,
                int64_t token) {
  constexpr bool Pairs = kPairs<T>;
  const int64_t head_dim = call.size.head_dim;
  auto row_of = [&](const T *x, int64_t ld) {
    return [=, &panel](int64_t r) { return x + (token + panel.position[r]) * ld + panel.head[r] * head_dim; };
  };
  pack_rows<Pairs, T>(buffers.rows, panel.rows, head_dim, head.stride, row_of(call.q, call.ld));
  pack_rows<Pairs, T>(buffers.douts, panel.rows, head_dim, head.stride, row_of(call.dout, call.ldo));
  pack_transposed(buffers.queries, buffers.rows, panel.rows, head.stride);
  pack_transposed(buffers.gradients, buffers.douts, panel.rows, head.stride);
  if constexpr (Pairs) {
    pack_row_pairs(buffers.row_pairs, buffers.rows, panel.rows, head.stride, head.columns);
    pack_row_pairs(buffers.dout_pairs, buffers.douts, panel.rows, head.stride, head.columns);
  }
  if constexpr (Amx)
    for (int64_t pair = (panel.rows + 1) / 2; pair < kPanel / 2; pair++)
      for (float *pairs : {buffers.row_pairs, buffers.dout_pairs})
        memset(pairs + pair * head.columns, 0, size_t(head.columns) * 4);
  for (int64_t r = 0; r < kPanel; r++) {
    int64_t at = panel.head[r] * call.size.tokens + token + panel.position[r];
    buffers.lse[r] = r < panel.rows ? call.lse[at] * kLog2E : 0.0f;
    buffers.delta[r] = r < panel.rows ? call.delta[at] : 0.0f;
  }
}

// One panel and the tiles of `keys`: adds to dkeys and dvalues, writes dq, as asked. Buffers hold keys from `packed` on.
// The rows of the panel `next` are asked for meanwhile.
template <typename T, bool Amx>
void panel_backward(const Backward<T> &call, const Buffers &buffers, const HeadSize &head, const Panel &panel,
                    const Panel &next, Keys keys, int64_t packed, int64_t token, bool want_keys, bool want_queries) {
  constexpr bool Pairs = kPairs<T>;
  constexpr int64_t pair = Pairs ? 2 : 1;
  pack_panel<T, Amx>(call, buffers, head, panel, token);

  const int64_t head_dim = call.size.head_dim;
  const int64_t ahead = rows_at_a_time(keys, 3);
  int64_t asked = 0;
  const auto ask = [&] {
    ask_for_rows<0>(next, call.q + token * call.ld, call.ld, head_dim, asked, asked + ahead);
    ask_for_rows<0>(next, call.dout + token * call.ldo, call.ldo, head_dim, asked, asked + ahead);
    if (want_queries) ask_for_rows<1>(next, call.dq + token * call.ldd, call.ldd, head_dim, asked, asked + ahead);
    asked += ahead;
  };
  for (int64_t start = keys.begin; start < keys.end; start += kTile) {
    const int64_t n = std::min(kTile, keys.end - start), offset = start - packed;
    const float *tile_keys = buffers.keys + offset * head.stride, *tile_values = buffers.values + offset * head.stride;
    float *dkeys = buffers.dkeys + offset * head.columns, *dvalues = buffers.dvalues + offset * head.columns;
    if constexpr (Amx) {
      scores_amx(panel, start, n, head, tile_keys, buffers.queries, buffers.scores);
      ask();
      scores_amx(panel, start, n, head, tile_values, buffers.gradients, buffers.dscores);
      ask();
      softmax_backward<T, Amx>(buffers, panel, start, n, call.size.scale);
      ask();
      if (want_keys) {
        sum_rows_amx(panel, start, n, head, buffers.p_words, buffers.dout_pairs, dvalues);
        sum_rows_amx(panel, start, n, head, buffers.ds_words, buffers.row_pairs, dkeys);
      }
      if (want_queries)
        sum_keys_amx(panel, start, n, head, buffers.key_pairs + offset / pair, buffers.key_stride, buffers.ds_pairs,
                     buffers.dqueries, start > keys.begin);
      continue;
    }
    // Sᵀ[key, row] = K·Qᵀ and dPᵀ[key, row] = V·dOᵀ
    scores_of_tile<Pairs>(panel, start, n, head, tile_keys, buffers.queries, buffers.scores);
    ask();
    scores_of_tile<Pairs>(panel, start, n, head, tile_values, buffers.gradients, buffers.dscores);
    ask();
    softmax_backward<T, Amx>(buffers, panel, start, n, call.size.scale);
    ask();
    if (want_keys) {  // dV[key, column] += Pᵀ·dO, dK[key, column] += dSᵀ·Q
      sum_rows<Pairs>(panel, start, n, head, buffers.p_words, buffers.dout_pairs, dvalues);
      sum_rows<Pairs>(panel, start, n, head, buffers.ds_words, buffers.row_pairs, dkeys);
    }
    if (want_queries)  // dQ[row, column] += dS·K
      sum_keys<Pairs>(panel, start, n, head, buffers.ds_pairs, buffers.key_pairs + offset / pair * head.columns,
                      buffers.dqueries, start > keys.begin);
  }
  if (!want_queries) return;
  const float *dqueries = buffers.dqueries;
  for (int64_t r = 0; r < panel.rows; r++) {
    if constexpr (Amx) {
      if (r % kLanes == 0) rows_of_columns(buffers.scores, buffers.dqueries + r, head.columns);
      dqueries = buffers.scores - r / kLanes * kLanes * head.columns;
    }
    store_row(call.dq + (token + panel.position[r]) * call.ldd + panel.head[r] * call.size.head_dim,
              dqueries + r * head.columns, call.size.scale, call.size.head_dim);
  }
}

template <typename T, bool Amx>
void run_item(const Backward<T> &call, const HeadSize &head, const Work &item, float *memory) {
  constexpr bool Pairs = kPairs<T>;
  const AttentionSize &size = call.size;
  const int64_t token = size.borders[item.sequence], length = size.borders[item.sequence + 1] - token;
  const bool want_keys = item.kind != kQueries, want_queries = item.kind != kKeys;
  const Keys keys = key_range(size, item);
  const Panels panels = item.kind == kQueries ? Panels{item.begin, item.end} : panels_of(size, length, keys);

  Buffers buffers;
  place<Pairs, Amx>(&buffers, memory, keys.count(), want_keys, head);
  auto row_of = [&](const T *x) {
    const T *first_row = x + (token + keys.begin) * call.ld + item.kv_head * size.head_dim;
    return [=, ld = call.ld](int64_t r) { return first_row + r * ld; };
  };
  pack_rows<Pairs, T>(buffers.keys, keys.count(), size.head_dim, head.stride, row_of(call.k));
  pack_rows<Pairs, T>(buffers.values, keys.count(), size.head_dim, head.stride, row_of(call.v));
  if constexpr (Amx)
    pack_column_pairs(buffers.key_pairs, buffers.key_stride, buffers.keys, keys.count(), head.stride, head.columns);
  else if constexpr (Pairs)
    pack_row_pairs(buffers.key_pairs, buffers.keys, keys.count(), head.stride, head.columns);
  if (want_keys) {
    memset(buffers.dkeys, 0, size_t(keys.count() * head.columns * 4));
    memset(buffers.dvalues, 0, size_t(keys.count() * head.columns * 4));
  }
  [[maybe_unused]] const std::conditional_t<Amx, AmxTiles, int> tiles{};
  Panel next(size, length, item.kv_head, panels.begin);
  for (int64_t panel = panels.begin; panel < panels.end; panel++) {
    const Panel current = next;
    next = Panel(size, length, item.kv_head, std::min(panel + 1, panels.end - 1));
    const Keys all = panel_keys(size, length, panel);
    const Keys own = {std::max(keys.begin, all.begin), std::min(keys.end, all.end)};
    panel_backward<T, Amx>(call, buffers, head, current, next, own, keys.begin, token, want_keys, want_queries);
  }
  if (!want_keys) return;
  for (int64_t key = keys.begin; key < keys.end; key++) {
    int64_t at = (token + key) * call.ldd + item.kv_head * size.head_dim, from = (key - keys.begin) * head.columns;
    store_row(call.dk + at, buffers.dkeys + from, size.scale, size.head_dim);
    store_row(call.dv + at, buffers.dvalues + from, 1.0f, size.head_dim);
  }
}

template <typename T, bool Amx>
int32_t backward(int threads, const Backward<T> &call) {
  constexpr bool Pairs = kPairs<T>;
  const AttentionSize &size = call.size;
  const HeadSize head = head_size<Pairs>(size.head_dim);
  row_products(threads, call);

  int64_t heads = 0, most = 0;
  for (int64_t s = 0; s < size.sequences; s++) {
    int64_t length = size.borders[s + 1] - size.borders[s];
    most += panel_count(size, length) + (length + kTile - 1) / kTile;
    heads += length > 0 ? size.kv_heads : 0;
  }
  most = heads + most * size.kv_heads;
  Work *items = work_list(most);
  if (items == nullptr) return fail(NT_OUT_OF_MEMORY, "attention_backward: no memory for %lld items", (long long)most);
  int64_t count = list_work(items, heads, size, threads);

  int64_t floats = 0;
  for (int64_t i = 0; i < count; i++) {
    Buffers buffers;
    floats = std::max(floats, place<Pairs, Amx>(&buffers, nullptr, key_range(size, items[i]).count(),
                                                items[i].kind != kQueries, head));
  }
  bool done = run_longest_first(threads, items, count, floats,
                                [&](const Work &item, float *memory) { run_item<T, Amx>(call, head, item, memory); });
  if (!done)
    return fail(NT_OUT_OF_MEMORY, "attention_backward: no memory for %lld floats a thread", (long long)floats);
  return NT_OK;
}

template <typename T>
int32_t backward(nt_context *context, const Backward<T> &call) {
  if constexpr (kAmx && kPairs<T>)
    if (has_amx(context)) return backward<T, true>(context->threads, call);
  return backward<T, false>(context->threads, call);
}

template <typename T>
int32_t attention_backward(nt_context *context, const AttentionSize &size, T *dq, T *dk, T *dv, int64_t lddqkv,
                           float *delta, const T *dout, const T *o, int64_t ldo, const T *q, const T *k, const T *v,
                           int64_t ldqkv, const float *lse, const Rope &rope) {
  const int32_t status =
      backward(context, Backward<T>{size, dq, dk, dv, lddqkv, delta, dout, o, ldo, q, k, v, ldqkv, lse});
  if (status != NT_OK || rope.positions == nullptr) return status;
  rotate_rows(context->threads, dq, lddqkv, rope, size.tokens, size.heads, size.head_dim, -1.0f);
  rotate_rows(context->threads, dk, lddqkv, rope, size.tokens, size.kv_heads, size.head_dim, -1.0f);
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/attention_backward.h"
