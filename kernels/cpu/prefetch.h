// Asking for memory before it is needed. The processor by itself looks ahead to the end of a page, and past it only as far
// as the instructions that it has in flight: kernels that also compute would wait for each page anew.
#pragma once
#include <stdint.h>

namespace nt {

// Far enough for the L3 cache or memory to answer in time: half as far is slower, six times as far no faster.
constexpr int64_t kPrefetchBytes = 4096;

// Asks for the memory kPrefetchBytes behind `count` elements from p on. It need not exist.
template <int64_t count, typename T>
inline void prefetch_ahead(const T *p) {
  for (int64_t i = 0; i < count * int64_t(sizeof(T)); i += 64)
    __builtin_prefetch(reinterpret_cast<const char *>(p) + kPrefetchBytes + i);
}

// The same where it will be written.
template <int64_t count, typename T>
inline void prefetch_to_write(const T *p) {
  for (int64_t i = 0; i < count * int64_t(sizeof(T)); i += 64)
    __builtin_prefetch(reinterpret_cast<const char *>(p) + kPrefetchBytes + i, 1);
}

}  // namespace nt
