// Who does what in attention's backward pass: whole heads where these keep all threads busy, else parts of them.
#pragma once
#include "attention.h"

namespace nt {

enum Kind { kWhole, kKeys, kQueries };  // Work::kind; begin and end count tiles, tiles and panels

// Keys that an item works on.
inline Keys key_range(const AttentionSize &size, const Work &item) {
  int64_t length = size.borders[item.sequence + 1] - size.borders[item.sequence];
  if (item.kind == kKeys) return {item.begin * kTile, std::min(length, item.end * kTile)};
  if (item.kind == kQueries)
    return {panel_keys(size, length, item.begin).begin, panel_keys(size, length, item.end - 1).end};
  return {0, length};
}

// Costs in products of a panel with one key. A whole head makes five, its dk and dv alone four, its dq alone three.
constexpr int64_t kWholeCost = 5, kKeysCost = 4, kQueriesCost = 3;
// The sums of dk and dv for longer sequences would take too much memory a thread.
constexpr int64_t kLongest = 16384;

inline int64_t head_cost(const AttentionSize &size, int64_t length) {
  int64_t cost = 0, panels = panel_count(size, length);
  for (int64_t panel = 0; panel < panels; panel++) cost += panel_keys(size, length, panel).count();
  return cost * kWholeCost;
}

// Writes the items that replace `whole`, none costing much more than `share`; returns how many.
inline int64_t split_head(Work *items, const AttentionSize &size, const Work &whole, int64_t share) {
  int64_t length = size.borders[whole.sequence + 1] - size.borders[whole.sequence];
  int32_t panels = int32_t(panel_count(size, length)), tiles = int32_t((length + kTile - 1) / kTile);
  int64_t count = 0;
  auto cut = [&](int32_t kind, int32_t end, int64_t longest, auto cost_of) {
    for (int32_t at = 0; at < end;) {
      Work item = {0, whole.sequence, whole.kv_head, at, at, kind};
      while (at < end && at - item.begin < longest && (at == item.begin || item.cost + cost_of(at) <= share))
        item.cost += cost_of(at++);
      item.end = at;
      items[count++] = item;
    }
  };
  cut(kKeys, tiles, kLongest / kTile, [&](int64_t tile) {
    const Panels see = panels_of(size, length, {tile * kTile, (tile + 1) * kTile});
    return kKeysCost * kTile * (see.end - see.begin);
  });
  cut(kQueries, panels, panels, [&](int64_t panel) { return kQueriesCost * panel_keys(size, length, panel).count(); });
  return count;
}

// When the last of the items [first, end), costliest first, would be done if the items from `keep` on could be spread
// over all threads for 7/5 of their cost, as `spread` already is.
inline int64_t makespan(const Work *items, int64_t first, int64_t keep, int64_t end, int64_t spread, int threads) {
  int64_t loads[256] = {}, sum = 0;
  for (int64_t i = first; i < keep; i++) {
    *std::min_element(loads, loads + threads) += items[i].cost;
    sum += items[i].cost;
  }
  for (int64_t i = keep; i < end; i++) spread += items[i].cost * 7 / 5;
  return std::max(*std::max_element(loads, loads + threads), (sum + spread) / threads);
}

// Lists a whole head an item, or its parts where that lets the last thread end sooner.
inline int64_t list_work(Work *items, int64_t heads, const AttentionSize &size, int threads) {
  int64_t count = 0, total = 0;
  for (int64_t s = 0; s < size.sequences; s++) {
    int64_t length = size.borders[s + 1] - size.borders[s], cost = head_cost(size, length);
    if (length == 0) continue;
    for (int64_t h = 0; h < size.kv_heads; h++) items[count++] = {cost, int32_t(s), int32_t(h), 0, 0, kWhole};
    total += cost * size.kv_heads;
  }
  sort_longest_first(items, heads);

  // In front, heads too large for one thread; at the end, those of the last, incomplete round.
  int64_t first = 0, spread = 0;
  while (first < heads && (items[first].cost > total / threads * 7 / 5 ||
                           size.borders[items[first].sequence + 1] - size.borders[items[first].sequence] > kLongest))
    spread += items[first++].cost * 7 / 5;
  int64_t keep = heads, rounds = heads - (heads - first) % threads;
  if (heads - first < 4 * threads && makespan(items, first, rounds, heads, spread, threads) <
                                         makespan(items, first, heads, heads, spread, threads))
    keep = rounds;
  if (first == 0 && keep == heads) return heads;

  const int64_t share = total / (threads * 4) + 1;
  auto split = [&](int64_t i) { count += split_head(items + count, size, items[i], share); };
  for (int64_t i = 0; i < first; i++) split(i);
  for (int64_t i = keep; i < heads; i++) split(i);
  // The parts follow all the heads; the heads that were split give up their places.
  int64_t parts = count - heads;
  std::copy(items + first, items + keep, items);
  std::copy(items + heads, items + heads + parts, items + (keep - first));
  return keep - first + parts;
}

}  // namespace nt
