// AdamW with its moments in 8 bits: a block of 256 is widened into the first-level cache, updated and rounded again.
#include <string.h>

#include "adamw_update.h"
#include "context.h"
#include "dynamic_codes.h"
#include "parallel.h"

namespace nt {
namespace {

constexpr int64_t kStateBlock = NT_STATE_BLOCK;
constexpr int64_t kLeastBlocks = 16;  // for a thread
constexpr uint8_t kSignedZero = 127;  // the code of 0

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
  alignas(64) uint8_t m_codes[kStateBlock], v_codes[kStateBlock];
  memset(m_codes, kSignedZero, sizeof m_codes);  // lanes beyond the end are 0
  memset(v_codes, 0, sizeof v_codes);
  memcpy(m_codes, m, size_t(count));
  memcpy(v_codes, v, size_t(count));
  VecI m_top = {}, v_top = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t left = count - i;
    Vec a = lookup(kSignedMap, load_bytes(m_codes + i)) * splat(m_absmax);
    Vec b = lookup(kUnsignedMap, load_bytes(v_codes + i)) * splat(v_absmax);
    if (left >= kLanes) {
      const Vec updated = adamw_update(load(p + i), load(g + i), a, b, s, factor);
      store(p + i, updated);
      if (copy != nullptr) store(copy + i, updated);
    } else {
      const Vec updated = adamw_update(load_part(p + i, left), load_part(g + i, left), a, b, s, factor);
      store_part(p + i, updated, left);
      if (copy != nullptr) store_part(copy + i, updated, left);
    }
    m_top = greater(m_top, magnitude(a));
    v_top = greater(v_top, magnitude(b));
    store(first + i, a);
    store(second + i, b);
  }
  m_absmax = largest(m_top);
  v_absmax = largest(v_top);
  if (m_absmax < __builtin_inff() && v_absmax < __builtin_inff()) {
    const float m_unit = m_absmax > 0.0f ? m_absmax : 1.0f, v_unit = v_absmax > 0.0f ? v_absmax : 1.0f;
    for (int64_t i = 0; i < count; i += kLanes) {
      store_bytes(m_codes + i, first_moment_codes(load(first + i), m_unit));
      store_bytes(v_codes + i, second_moment_codes(load(second + i), v_unit));
    }
  } else {
    for (int64_t i = 0; i < count; i++) {
      m_codes[i] = uint8_t(nt_first_moment_code(kSignedMap, first[i], m_absmax));
      v_codes[i] = uint8_t(nt_second_moment_code(kUnsignedMap, second[i], v_absmax));
    }
  }
  memcpy(m, m_codes, size_t(count));
  memcpy(v, v_codes, size_t(count));
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
