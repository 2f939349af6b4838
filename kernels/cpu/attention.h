// What the attention functions share: panels of stacked query rows, and work lists.
#pragma once
#include <algorithm>
#include <atomic>

#include "../attention_checks.h"
#include "attention_tile.h"
#include "context.h"
#include "parallel.h"
#include "scratch.h"

namespace nt {

// ------------------------------------------------------------------ panels

inline int64_t panel_count(const AttentionSize &size, int64_t length) {
  return (length * size.group + kPanel - 1) / kPanel;
}

// Keys that the last row of a panel sees.
inline int64_t panel_keys(const AttentionSize &size, int64_t length, int64_t panel) {
  return clamp(((panel + 1) * kPanel - 1) / size.group + 1, 0, length);
}

struct Panel {
  int64_t first, rows, vectors, group;
  int32_t position[kPanel];  // in the sequence, of each row
  int32_t head[kPanel];      // query head of each row

  Panel(const AttentionSize &size, int64_t length, int64_t kv_head, int64_t panel) {
    group = size.group;
    first = panel * kPanel;
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

  int64_t keys() const { return position[rows - 1] + 1; }
  // Keys of the tile [start, start + n) seen by row r; by every row of vector v; by any row of vector v.
  int64_t seen(int64_t r, int64_t start, int64_t n) const { return clamp(position[r] + 1 - start, 0, n); }
  int64_t seen_by_all(int64_t v, int64_t start, int64_t n) const { return seen(v * kLanes, start, n); }
  int64_t seen_by_any(int64_t v, int64_t start, int64_t n) const { return seen(v * kLanes + kLanes - 1, start, n); }
  // The first row that sees a key.
  int64_t first_row(int64_t key) const { return clamp(key * group - first, 0, rows); }
};

// ------------------------------------------------------------------ work

// A piece of a call that one thread does alone: `begin` and `end` count panels or tiles.
struct Work {
  int64_t cost;
  int32_t sequence, kv_head, begin, end, kind;
};

// Memory of the calling thread, kept for its next item or call; null when there is none left.
inline float *item_memory(int64_t floats) {
  static thread_local Scratch memory;
  return static_cast<float *>(memory.at_least(floats * 4));
}

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
