// A linear layer's weight: the caller's [out, in] matrix, or the matrix in NF4, which each product expands.
#pragma once
#include "../check.h"

struct nt_weight {
  int32_t dtype;
  int64_t out, in, ld;  // elements from a row to the next
  const void *data;  // borrowed; may be a file mapping, aligned to its elements at best; null: the weight is in NF4
  nt_nf4 nf4;        // what it points to is borrowed
  void *scratch;     // for out · in values that an NF4 weight is expanded to, borrowed
};
