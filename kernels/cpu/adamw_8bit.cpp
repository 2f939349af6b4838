// AdamW with its moments in 8 bits: a block of 256 is widened into the first-level cache, updated and rounded again.
#include <string.h>

#include "../dynamic_map.h"
#include "adamw_update.h"
#include "context.h"
#include "parallel.h"

namespace nt {
namespace {

constexpr int64_t kStateBlock = NT_STATE_BLOCK;
constexpr int64_t kLeastBlocks = 16;  // for a thread
const float kSigned[256] = {NT_DYNAMIC_MAP};
const float kUnsigned[256] = {NT_DYNAMIC_MAP_UNSIGNED};

// The bits of |x| order as |x| does, with NaN above all.
inline VecI magnitude(Vec x) { return (VecI)x & 0x7FFFFFFF; }
inline VecI greater(VecI a, VecI b) {
  const VecI mask = a > b;
  return (a & mask) | (b & ~mask);
}
float largest(VecI magnitudes) {
  int32_t top = 0;
  for (int i = 0; i < kLanes; i++) top = magnitudes[i] > top ? magnitudes[i] : top;
  float absmax;
  memcpy(&absmax, &top, sizeof absmax);
  return absmax;
}

// `count` values of a block; only its parameters, gradients and codes are read and written.
void update_block(float *p, bf16 *copy, const float *g, uint8_t *m, uint8_t *v, float &m_absmax, float &v_absmax,
                  int64_t count, const AdamwStep &s, float factor) {
  alignas(64) float first[kStateBlock], second[kStateBlock];
  for (int64_t i = 0; i < count; i++) {
    first[i] = kSigned[m[i]] * m_absmax;
    second[i] = kUnsigned[v[i]] * v_absmax;
  }
  VecI m_top = {}, v_top = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Vec a = load(first + i), b = load(second + i);
    const Vec updated = adamw_update(load(p + i), load(g + i), a, b, s, factor);
    m_top = greater(m_top, magnitude(a));
    v_top = greater(v_top, magnitude(b));
    store(first + i, a);
    store(second + i, b);
    store(p + i, updated);
    if (copy != nullptr) store(copy + i, updated);
  }
  if (i < count) {
    const int64_t left = count - i;
    Vec a = load_part(first + i, left), b = load_part(second + i, left);
    const Vec updated = adamw_update(load_part(p + i, left), load_part(g + i, left), a, b, s, factor);
    m_top = greater(m_top, magnitude(a));  // lanes beyond the end are 0
    v_top = greater(v_top, magnitude(b));
    store_part(first + i, a, left);
    store_part(second + i, b, left);
    store_part(p + i, updated, left);
    if (copy != nullptr) store_part(copy + i, updated, left);
  }
  m_absmax = largest(m_top);
  v_absmax = largest(v_top);
  for (int64_t i = 0; i < count; i++) {
    m[i] = uint8_t(nt_first_moment_code(kSigned, first[i], m_absmax));
    v[i] = uint8_t(nt_second_moment_code(kUnsigned, second[i], v_absmax));
  }
}

int32_t adamw_8bit(nt_context *context, float *p, void *rounded, const float *g, const State8bit &state, int64_t n,
                   const AdamwStep &s, const float *gradient_scale) {
  auto *copy = static_cast<bf16 *>(rounded);
  const float factor = gradient_scale == nullptr ? 1.0f : *gradient_scale;
  const int64_t blocks = (n + kStateBlock - 1) / kStateBlock;
  parallel_for(context->threads, blocks, kLeastBlocks, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) {
      const int64_t at = b * kStateBlock, count = n - at < kStateBlock ? n - at : kStateBlock;
      update_block(p + at, copy == nullptr ? nullptr : copy + at, g + at, state.m + at, state.v + at,
                   state.m_absmax[b], state.v_absmax[b], count, s, factor);
    }
  });
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/adamw_8bit.h"
