// Sums over many blocks without a second kernel: each block leaves its part in memory, and the one that comes last adds
// all parts, in their order, so that the result does not depend on which one that is.
#pragma once
#include "context.h"

namespace nt {

// Whether this block is the last of `blocks` that count themselves here, which then sees what the others wrote before.
// The counter is 0 at first and again afterwards (context->counters).
__device__ __forceinline__ bool is_last_block(unsigned *counter, unsigned blocks) {
  NT_SHARED(unsigned, before, [1]);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) before[0] = atomicInc(counter, blocks - 1);
  __syncthreads();
  const bool last = before[0] == blocks - 1;
  if (last) __threadfence();
  return last;
}

}  // namespace nt
