// A linear layer's weight [out, in]: the caller's matrix, the matrix in NF4, which a product reads or expands, or other
// weights on top of each other.
#pragma once
#include "../check.h"

struct nt_weight {
  int32_t dtype;
  int64_t out, in, ld;  // elements from a row to the next
  const void *data;  // borrowed; may be a file mapping, aligned to its elements at best; null: in NF4, or a stack
  nt_nf4 nf4;        // what it points to is borrowed
  void *scratch;     // for out · in values that an NF4 weight is expanded to, borrowed
  const nt_weight *const *parts;  // of a stack, from its first row on: no stacks, of its dtype and `in`; borrowed
  int64_t count;                  // of parts; 0: this is no stack
};
