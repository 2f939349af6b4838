// Where a thread keeps the operands of a work item.
#pragma once
#include "rounding.h"
#include "scratch.h"

namespace nt {

// Memory of the calling thread, kept for its next item or call; null when there is none left.
inline float *item_memory(int64_t floats) {
  static thread_local Scratch memory;
  return static_cast<float *>(memory.at_least(floats * 4));
}

// Hands out parts of a buffer; without one it only counts.
struct Parts {
  float *memory;
  int64_t used = 0;

  float *take(int64_t floats) {
    float *start = memory == nullptr ? nullptr : memory + used;
    used += round_up(floats, 64);
    return start;
  }
};

}  // namespace nt
