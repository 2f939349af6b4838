// What the attention functions share: panels of stacked query rows, and work lists.
#pragma once
#include <algorithm>
#include <atomic>

#include "../entry/attention_checks.h"
#include "attention_tile.h"
#include "item_memory.h"
#include "parallel.h"

namespace nt {

// ------------------------------------------------------------------ panels

// Rows are queries at positions start … length − 1, and keys are at 0 … length − 1.
inline int64_t panel_count(const AttentionSize &size, int64_t length, int64_t start = 0) {
  return ((length - start) * size.group + kPanel - 1) / kPanel;
}

// Keys that a panel works on: from the first that its first row sees, or the even one before (pairs of keys start
// there), to its last row's own.
struct Keys {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};
inline Keys panel_keys(const AttentionSize &size, int64_t length, int64_t panel, int64_t start = 0) {
  return {first_seen(start + panel * kPanel / size.group, size.window) & ~int64_t(1),
          clamp(start + ((panel + 1) * kPanel - 1) / size.group + 1, 0, length)};
}

// The panels that see any of the keys.
struct Panels {
  int64_t begin, end;
};
inline Panels panels_of(const AttentionSize &size, int64_t length, Keys keys) {
  return {keys.begin * size.group / kPanel,
          panel_count(size, std::min(length, keys.end - 1 + size.window))};
}

struct Panel {
  int64_t first, rows, vectors, group, window;
  int32_t position[kPanel];  // in the sequence, of each row
  int32_t head[kPanel];      // query head of each row

  Panel(const AttentionSize &size, int64_t length, int64_t kv_head, int64_t panel, int64_t start = 0) {
    group = size.group;
    window = size.window;
    first = start * group + panel * kPanel;
    rows = clamp(length * group - first, 0, kPanel);
    vectors = (rows + kLanes - 1) / kLanes;
    int64_t at = first / group, member = first % group;
    for (int64_t r = 0; r < kPanel; r++) {
      position[r] = int32_t(at);
      head[r] = int32_t(kv_head * group + member);
      if (++member == group) {
        member = 0;
        at++;
      }
    }
  }

  // The keys of the tile [start, start + n) that row r sees, counted in the tile.
  Keys seen(int64_t r, int64_t start, int64_t n) const {
    return {clamp(position[r] + 1 - window - start, 0, n), clamp(position[r] + 1 - start, 0, n)};
  }
  // The same for the rows of vector v: [begin, end) is seen by some, begin even, and [all_begin, all_end) by all.
  struct Seen {
    int64_t begin, all_begin, all_end, end;
  };
  Seen seen_by(int64_t v, int64_t start, int64_t n) const {
    const Keys first = seen(v * kLanes, start, n), last = seen(v * kLanes + kLanes - 1, start, n);
    if (first.begin >= last.end) return {0, 0, 0, 0};
    const bool common = last.begin < first.end;
    return {first.begin & ~int64_t(1), common ? last.begin : last.end, common ? first.end : last.end, last.end};
  }
  // Of a tile of n keys, those that all rows of several vectors see, in whole pairs; {n, n} if there are none.
  template <int W>
  static Keys seen_by_all(const Seen (&seen)[W], int64_t n) {
    Keys all = {0, n};
    for (const Seen &one : seen) all = {std::max(all.begin, one.all_begin), std::min(all.end, one.all_end)};
    all = {round_up(all.begin, 2), all.end & ~int64_t(1)};
    return all.begin < all.end ? all : Keys{n, n};
  }
  // Lane by lane, whether the rows of vector v see a key.
  VecI sees(int64_t v, int64_t key) const {
    const int64_t row = first + v * kLanes;
    const VecI lanes = lane_numbers();
    return (lanes >= int32_t(clamp(key * group - row, 0, kLanes))) &
           (lanes < int32_t(clamp((key + window) * group - row, 0, kLanes)));
  }
  // The first row that sees a key; the first behind the last one that does, and that in whole vectors.
  int64_t first_row(int64_t key) const { return clamp(key * group - first, 0, rows); }
  int64_t end_row(int64_t key) const { return clamp((key + window) * group - first, 0, rows); }
  int64_t end_vector(int64_t key) const { return (end_row(key) + kLanes - 1) / kLanes; }
  // The words of the tile's keys that a sum over keys needs for `several` rows from r on.
  template <bool Pairs>
  Part words_seen(int64_t r, int64_t several, int64_t start, int64_t n) const {
    constexpr int64_t pair = Pairs ? 2 : 1;
    const int64_t begin = seen(r, start, n).begin / pair, end = (seen(r + several - 1, start, n).end + pair - 1) / pair;
    return {0, begin < end ? begin : end, end};
  }
};

// Asks for the rows [begin, end) of a panel that comes next, x being the row at position 0, so that they are in the cache
// when it is packed or, with kWrite, written. The hardware does not foresee them: they are short and far apart.
template <int kWrite, typename T>
inline void ask_for_rows(const Panel &panel, const T *x, int64_t ld, int64_t head_dim, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < std::min(end, panel.rows); r++) {
    const char *row = reinterpret_cast<const char *>(x + panel.position[r] * ld + panel.head[r] * head_dim);
    for (int64_t i = 0; i < head_dim * int64_t(sizeof(T)); i += 64) __builtin_prefetch(row + i, kWrite, 2);
  }
}
// How many rows of the next panel to ask for, `times` times with every tile of `keys`.
inline int64_t rows_at_a_time(Keys keys, int64_t times) {
  return ceil_div(kPanel, times * std::max<int64_t>(1, ceil_div(keys.count(), kTile)));
}

// ------------------------------------------------------------------ work

// A piece of a call that one thread does alone: `begin` and `end` count panels or tiles.
struct Work {
  int64_t cost;
  int32_t sequence, kv_head, begin, end, kind;
};

inline Work *work_list(int64_t count) {
  static thread_local Scratch memory;
  return static_cast<Work *>(memory.at_least(count * int64_t(sizeof(Work))));
}

inline void sort_longest_first(Work *items, int64_t count) {
  std::sort(items, items + count, [](const Work &a, const Work &b) {
    if (a.cost != b.cost) return a.cost > b.cost;
    if (a.sequence != b.sequence) return a.sequence < b.sequence;
    return a.kv_head != b.kv_head ? a.kv_head < b.kv_head : a.begin < b.begin;
  });
}

// body(work, memory) for every item, longest first, each on the next free thread: items must not depend on each other
// or on where they run. Returns false when a thread had no memory for `floats`.
template <typename Body>
bool run_longest_first(int threads, Work *items, int64_t count, int64_t floats, const Body &body) {
  sort_longest_first(items, count);
  std::atomic<int64_t> next{0};
  std::atomic<bool> fits{true};
  on_threads(count < threads ? int(count) : threads, [&](int, int) {
    float *memory = item_memory(floats);
    if (memory == nullptr) {
      fits.store(false);
      return;
    }
    for (int64_t i; (i = next.fetch_add(1)) < count;) body(items[i], memory);
  });
  return fits.load();
}

}  // namespace nt
