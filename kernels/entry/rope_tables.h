// What rotary position embedding turns rows by.
#pragma once
#include <stdint.h>

namespace nt {

// Tables float32 [positions, head_dim / 2], and each row's position in them. positions null: rows are not turned.
struct Rope {
  const float *cosine, *sine;
  const int32_t *positions;
};

}  // namespace nt
