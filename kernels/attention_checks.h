// What the attention functions of every backend ask of their arguments.
#pragma once
#include "check.h"

namespace nt {

// More than any sample has, and far enough from overflow to be added to a position.
constexpr int64_t kNoWindow = int64_t(1) << 30;

struct AttentionSize {
  const int32_t *borders;  // [sequences + 1]
  int64_t sequences, heads, kv_heads, group, head_dim;
  int64_t tokens;
  int64_t window;  // of positions that a position sees, itself included; kNoWindow where that leaves nothing out
  float scale;
};

inline int32_t check_window(const char *op, int64_t window) {
  NT_CHECK(window >= 0, "%s: window must be ≥ 0, got %lld", op, (long long)window);
  return NT_OK;
}

// The first position that position i sees.
inline int64_t first_seen(int64_t i, int64_t window) { return i < window ? 0 : i - window + 1; }

// The first of `length` cached positions that the last of them sees; window 0: none.
inline int64_t first_cached(int64_t length, int64_t window) {
  return window == 0 || length <= window ? 0 : length - window;
}

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
  if (int32_t status = check_heads(op, heads, kv_heads, head_dim)) return status;
  if (int32_t status = check_borders(op, borders, sequences)) return status;
  if (int32_t status = check_window(op, window)) return status;
  NT_CHECK(scale > 0 && scale < 1e30f, "%s: scale must be finite and > 0, got %g", op, double(scale));
  int64_t longest = 0;
  for (int64_t s = 0; s < sequences; s++)
    if (borders[s + 1] - borders[s] > longest) longest = borders[s + 1] - borders[s];
  NT_CHECK(longest < kNoWindow, "%s: a sample must have fewer than 2^30 tokens, got %lld", op, (long long)longest);
  *size = {borders, sequences, heads, kv_heads, heads / kv_heads, head_dim, sequences > 0 ? borders[sequences] : 0,
           window == 0 || window >= longest ? kNoWindow : window, scale};
  return NT_OK;
}

inline int32_t check_attention_forward(AttentionSize *size, const void *o, int64_t ldo, const void *q, const void *k,
                                       const void *v, int64_t ldqkv, const int32_t *borders, int64_t sequences,
                                       int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window,
                                       float scale) {
  const char *op = "attention_forward";
  if (int32_t status = check_attention(op, size, borders, sequences, heads, kv_heads, head_dim, window, scale))
    return status;
  NT_CHECK(ldqkv >= heads * head_dim, "%s: ldqkv must be at least heads · head_dim = %lld, got %lld", op,
           (long long)(heads * head_dim), (long long)ldqkv);
  NT_CHECK(ldo >= heads * head_dim, "%s: ldo must be at least heads · head_dim = %lld, got %lld", op,
           (long long)(heads * head_dim), (long long)ldo);
  NT_CHECK(size->tokens == 0 || (o != nullptr && q != nullptr && k != nullptr && v != nullptr),
           "%s: o, q, k and v must not be null", op);
  return NT_OK;
}

inline int32_t check_attention_backward(AttentionSize *size, const void *dq, const void *dk, const void *dv,
                                        int64_t lddqkv, const float *delta, const void *dout, const void *o,
                                        int64_t ldo, const void *q, const void *k, const void *v, int64_t ldqkv,
                                        const float *lse, const int32_t *borders, int64_t sequences, int64_t heads,
                                        int64_t kv_heads, int64_t head_dim, int64_t window, float scale) {
  const char *op = "attention_backward";
  if (int32_t status = check_attention(op, size, borders, sequences, heads, kv_heads, head_dim, window, scale))
    return status;
  const int64_t columns = heads * head_dim;
  NT_CHECK(ldqkv >= columns && lddqkv >= columns && ldo >= columns,
           "%s: ldqkv, lddqkv and ldo must be at least heads · head_dim = %lld, got %lld, %lld and %lld", op,
           (long long)columns, (long long)ldqkv, (long long)lddqkv, (long long)ldo);
  NT_CHECK(size->tokens == 0 ||
               (dq != nullptr && dk != nullptr && dv != nullptr && delta != nullptr && dout != nullptr &&
                o != nullptr && q != nullptr && k != nullptr && v != nullptr && lse != nullptr),
           "%s: no pointer may be null", op);
  return NT_OK;
}

inline int32_t check_kv_append(const void *k_cache, const void *v_cache, const void *k, const void *v, int64_t ldkv,
                               const int32_t *borders, const int32_t *slots, const int32_t *starts, int64_t sequences,
                               int64_t capacity, int64_t kv_heads, int64_t head_dim) {
  const char *op = "kv_append";
  if (int32_t status = check_heads(op, kv_heads, kv_heads, head_dim)) return status;
  if (int32_t status = check_borders(op, borders, sequences)) return status;
  NT_CHECK(ldkv >= kv_heads * head_dim, "%s: ldkv must be at least kv_heads · head_dim = %lld, got %lld", op,
           (long long)(kv_heads * head_dim), (long long)ldkv);
  if (sequences == 0 || borders[sequences] == 0) return NT_OK;
  NT_CHECK(k_cache != nullptr && v_cache != nullptr && k != nullptr && v != nullptr && slots != nullptr &&
               starts != nullptr,
           "%s: the caches, k, v, slots and starts must not be null", op);
  for (int64_t s = 0; s < sequences; s++) {
    int64_t length = borders[s + 1] - borders[s];
    NT_CHECK(slots[s] >= 0 && starts[s] >= 0 && starts[s] + length <= capacity,
             "%s: sample %lld must fit its slot of %lld positions, got slot %d, positions %d … %lld", op, (long long)s,
             (long long)capacity, int(slots[s]), int(starts[s]), (long long)(starts[s] + length));
  }
  return NT_OK;
}

inline int32_t check_attention_decode(const void *o, int64_t ldo, const void *q, int64_t ldq, const void *k_cache,
                                      const void *v_cache, const int32_t *slots, const int32_t *lengths,
                                      int64_t sequences, int64_t capacity, int64_t heads, int64_t kv_heads,
                                      int64_t head_dim, int64_t window, float scale) {
  const char *op = "attention_decode";
  if (int32_t status = check_heads(op, heads, kv_heads, head_dim)) return status;
  if (int32_t status = check_window(op, window)) return status;
  NT_CHECK(sequences >= 0, "%s: sequences must be ≥ 0, got %lld", op, (long long)sequences);
  NT_CHECK(scale > 0 && scale < 1e30f, "%s: scale must be finite and > 0, got %g", op, double(scale));
  NT_CHECK(ldo >= heads * head_dim && ldq >= heads * head_dim,
           "%s: ldo and ldq must be at least heads · head_dim = %lld, got %lld and %lld", op,
           (long long)(heads * head_dim), (long long)ldo, (long long)ldq);
  if (sequences == 0) return NT_OK;
  NT_CHECK(o != nullptr && q != nullptr && k_cache != nullptr && v_cache != nullptr && slots != nullptr &&
               lengths != nullptr,
           "%s: o, q, the caches, slots and lengths must not be null", op);
  for (int64_t s = 0; s < sequences; s++)
    NT_CHECK(slots[s] >= 0 && lengths[s] >= 0 && lengths[s] <= capacity,
             "%s: lengths must be between 0 and the capacity %lld, slots ≥ 0, got length %d of slot %d", op,
             (long long)capacity, int(lengths[s]), int(slots[s]));
  return NT_OK;
}

}  // namespace nt
