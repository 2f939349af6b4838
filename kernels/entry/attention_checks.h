// The sizes of an attention call, and what the attention functions ask of their arguments.
#pragma once
#include "entry.h"

namespace nt {

// More than any sample has, and far enough from overflow to be added to a position.
constexpr int64_t kNoWindow = int64_t(1) << 30;

struct AttentionSize {
  const int32_t *borders;  // [sequences + 1]
  int64_t sequences, heads, kv_heads, group, head_dim;
  int64_t tokens;
  int64_t window;  // of positions that a position sees, itself included; kNoWindow where that leaves nothing out
  float scale;
  // Null: keys and values lie as the queries do. Else they lie in a cache [slots, kv_heads, capacity, head_dim], sample
  // s's being the first lengths[s] of slot slots[s], and its queries are at the last of these positions.
  const int32_t *slots, *lengths;  // [sequences], in host memory
  int64_t capacity;

  int64_t queries(int64_t s) const { return borders[s + 1] - borders[s]; }
  int64_t length(int64_t s) const { return lengths == nullptr ? queries(s) : lengths[s]; }
  // The position of sample s's first query, and the row of q in which position 0 would be.
  int64_t start(int64_t s) const { return length(s) - queries(s); }
  int64_t row(int64_t s) const { return borders[s] - start(s); }
};

// One query a sequence over a cache [slots, kv_heads, capacity, head_dim].
struct CachedSize {
  const int32_t *slots, *lengths;  // [sequences], in host memory
  int64_t sequences, capacity, heads, kv_heads, head_dim;
  int64_t window;  // 0: none
  float scale;

  // Sequence s reads `count(s)` keys of its slot, from `begin(s)` on.
  int64_t begin(int64_t s) const { return window == 0 || lengths[s] <= window ? 0 : lengths[s] - window; }
  int64_t count(int64_t s) const { return lengths[s] - begin(s); }
};

inline int32_t check_window(const char *op, int64_t window) {
  NT_CHECK(window >= 0, "%s: window must be ≥ 0, got %lld", op, (long long)window);
  return NT_OK;
}

// The first position that position i sees.
inline int64_t first_seen(int64_t i, int64_t window) { return i < window ? 0 : i - window + 1; }

inline int32_t check_heads(const char *op, int64_t heads, int64_t kv_heads, int64_t head_dim) {
  NT_CHECK(heads > 0 && kv_heads > 0 && heads % kv_heads == 0,
           "%s: heads must be a multiple of kv_heads, both > 0, got %lld and %lld", op, (long long)heads,
           (long long)kv_heads);
  NT_CHECK(head_dim > 0 && head_dim <= 256, "%s: head_dim must be between 1 and 256, got %lld", op,
           (long long)head_dim);
  return NT_OK;
}

inline int32_t check_borders(const char *op, const int32_t *borders, int64_t sequences) {
  NT_CHECK(sequences >= 0, "%s: sequences must be ≥ 0, got %lld", op, (long long)sequences);
  if (sequences == 0) return NT_OK;
  NT_CHECK(borders != nullptr && borders[0] == 0, "%s: cu_seqlens must start with 0", op);
  for (int64_t s = 0; s < sequences; s++)
    NT_CHECK(borders[s] <= borders[s + 1], "%s: cu_seqlens must not fall, got %d after %d", op, int(borders[s + 1]),
             int(borders[s]));
  return NT_OK;
}

// Fills `size`; borders are valid afterwards, and tokens is their last.
inline int32_t check_attention(const char *op, AttentionSize *size, const int32_t *borders, int64_t sequences,
                               int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window, float scale) {
  NT_TRY(check_heads(op, heads, kv_heads, head_dim));
  NT_TRY(check_borders(op, borders, sequences));
  NT_TRY(check_window(op, window));
  NT_CHECK(scale > 0 && scale < 1e30f, "%s: scale must be finite and > 0, got %g", op, double(scale));
  int64_t longest = 0;
  for (int64_t s = 0; s < sequences; s++)
    if (borders[s + 1] - borders[s] > longest) longest = borders[s + 1] - borders[s];
  NT_CHECK(longest < kNoWindow, "%s: a sample must have fewer than 2^30 tokens, got %lld", op, (long long)longest);
  *size = {borders, sequences, heads, kv_heads, heads / kv_heads, head_dim, sequences > 0 ? borders[sequences] : 0,
           window == 0 || window >= longest ? kNoWindow : window, scale, nullptr, nullptr, 0};
  return NT_OK;
}

// Makes the keys and values of a checked size those of a cache; slots and lengths are valid afterwards.
inline int32_t check_cache(const char *op, AttentionSize *size, const int32_t *slots, const int32_t *lengths,
                           int64_t capacity, int64_t window) {
  int64_t longest = 0;
  for (int64_t s = 0; s < size->sequences; s++) {
    NT_CHECK(slots[s] >= 0 && lengths[s] >= size->queries(s) && lengths[s] <= capacity,
             "%s: lengths must be between the new tokens and the capacity %lld, slots ≥ 0, got length %d for %lld tokens "
             "of slot %d",
             op, (long long)capacity, int(lengths[s]), (long long)size->queries(s), int(slots[s]));
    NT_CHECK((slots[s] + int64_t(1)) * size->kv_heads * capacity <= INT32_MAX,
             "%s: a cache may have 2^31 positions of key/value heads at most, got slot %d of %lld each", op,
             int(slots[s]), (long long)(size->kv_heads * capacity));
    if (lengths[s] > longest) longest = lengths[s];
  }
  size->slots = slots;
  size->lengths = lengths;
  size->capacity = capacity;
  size->window = window == 0 || window >= longest ? kNoWindow : window;
  return NT_OK;
}

}  // namespace nt
