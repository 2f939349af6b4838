// Working memory that a kernel keeps between calls: declared thread_local, grown when a call needs more.
#pragma once
#include "context.h"

namespace nt {

struct Scratch {
  void *data = nullptr;
  int64_t size = 0;

  // At least `bytes`, 256-byte aligned, contents undefined; null when out of memory. From 512 KiB on in huge pages: with
  // small ones a tenth of a kernel's time can go into looking up addresses.
  void *at_least(int64_t bytes) {
    if (size >= bytes) return data;
    if (bytes >= 512 << 10 && bytes < kHuge) bytes = kHuge;
    release(data);
    data = allocate(bytes);
    size = data == nullptr ? 0 : bytes;
    return data;
  }
};

}  // namespace nt
