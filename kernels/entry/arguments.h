// What the entry points hand to a backend where a list of numbers would say less.
#pragma once
#include <stdint.h>

namespace nt {

constexpr int64_t kMostNormedHeadDim = 256;

struct DropoutMask {
  uint64_t seed;
  uint32_t module;
  uint32_t threshold;  // kept where the word's top 24 bits are at least this
  float scale;         // 1 / (1 − p)
  bool accumulate;
};

// What a step of AdamW multiplies with, rounded from float64.
struct AdamwStep {
  float rest1;  // 1 − β₁
  float beta2, rest2;
  float decay;  // 1 − lr · weight_decay
  float size;   // lr / (1 − β₁^step)
  float root;   // sqrt(1 − β₂^step)
  float eps;
};

// AdamW's moments in bytes; a block of 256 values shares an absmax.
struct State8bit {
  uint8_t *m, *v;
  float *m_absmax, *v_absmax;
};

// Tokens of history that a row may have: what a GPU's table for one launch holds.
constexpr int64_t kHistoryTokens = int64_t(1) << 19;

}  // namespace nt
