// Counting values that are not finite, at the speed of memory.
#include "context.h"
#include "parallel.h"

namespace nt {
namespace {

constexpr int64_t kChunk = 4096;

// How many of x[n] have an exponent of ones: magnitude ≥ infinity, where the sign bit is left out. A chunk is counted only
// where its greatest magnitude says that there is something to count.
template <typename Bits>
uint32_t count(const Bits *x, int64_t n, Bits infinity) {
  const Bits magnitude = Bits(Bits(~Bits(0)) >> 1);
  uint32_t found = 0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = begin + kChunk < n ? begin + kChunk : n;
    Bits top = 0;
    for (int64_t i = begin; i < end; i++) {
      const Bits value = x[i] & magnitude;
      top = value > top ? value : top;
    }
    if (top < infinity) continue;
    for (int64_t i = begin; i < end; i++) found += uint32_t((x[i] & magnitude) >= infinity);
  }
  return found;
}

template <typename Bits>
void count_in(nt_context *context, uint32_t *total, const void *source, int64_t n, Bits infinity) {
  const auto *x = static_cast<const Bits *>(source);
  parallel_for(context->threads, n, 1 << 15, [&](int64_t begin, int64_t end) {
    const uint32_t found = count(x + begin, end - begin, infinity);
    if (found > 0) __atomic_fetch_add(total, found, __ATOMIC_RELAXED);
  });
}

int32_t count_non_finite(nt_context *context, uint32_t *total, const void *source, int32_t dtype, int64_t n) {
  if (dtype == NT_F32)
    count_in<uint32_t>(context, total, source, n, 0x7F800000u);
  else
    count_in<uint16_t>(context, total, source, n, dtype == NT_BF16 ? 0x7F80 : 0x7C00);
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/count_non_finite.h"
