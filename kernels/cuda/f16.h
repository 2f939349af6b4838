// float16 appears only in files: no arithmetic, only its bits.
#pragma once
#include "gpu.h"

namespace nt {

struct f16 {
  uint16_t bits;
};

__device__ __forceinline__ float to_float(f16 x) { return from_f16(x.bits); }

}  // namespace nt
