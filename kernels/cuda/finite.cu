// Counting values that are not finite.
#include "../check.h"
#include "context.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 256;

// How many of a word's values (one float32, or two of 16 bits) have an exponent of ones.
template <int size>
__device__ __forceinline__ unsigned odd_values(uint32_t word, uint32_t infinity) {
  if constexpr (size == 4) return (word & infinity) == infinity;
  return ((word & infinity) == infinity) + ((word & infinity << 16) == infinity << 16);
}

// Sixteen bytes a thread; `chunks` of them are whole and aligned, the values behind go one by one. Bytes a value: its
// size, read.
template <int size>
__global__ void __launch_bounds__(kThreads, 4) count_non_finite_kernel(unsigned *total, const unsigned char *x,
                                                                       int64_t chunks, int64_t n, uint32_t infinity) {
  constexpr int kValues = 16 / size;
  const int64_t i = int64_t(global_thread());
  unsigned count = 0;
  if (i < chunks) {
    const uint4 words = __ldcs(reinterpret_cast<const uint4 *>(x) + i);
    count = odd_values<size>(words.x, infinity) + odd_values<size>(words.y, infinity) +
            odd_values<size>(words.z, infinity) + odd_values<size>(words.w, infinity);
  } else {
    for (int64_t k = chunks * kValues + (i - chunks) * kValues, end = k + kValues < n ? k + kValues : n; k < end; k++) {
      uint32_t word = 0;
      memcpy(&word, x + k * size, size);
      count += odd_values<size>(word, infinity);
    }
  }
  if (count > 0) atomicAdd(total, count);
}

template <int size>
int32_t count_in(nt_context *context, uint32_t *total, const void *source, int64_t n, uint32_t infinity) {
  constexpr int64_t kValues = 16 / size;
  const int64_t chunks = aligned16(source) ? n / kValues : 0;
  NT_CUDA(launch(count_non_finite_kernel<size>, dim3(unsigned(ceil_div(n, kThreads * kValues))), dim3(kThreads), 0,
                 context->stream, total, static_cast<const unsigned char *>(source), chunks, n, infinity),
          "count_non_finite");
  return NT_OK;
}

int32_t count_non_finite(nt_context *context, uint32_t *total, const void *source, int32_t dtype, int64_t n) {
  if (dtype == NT_F32) return count_in<4>(context, total, source, n, 0x7F800000u);
  return count_in<2>(context, total, source, n, dtype == NT_BF16 ? 0x7F80u : 0x7C00u);
}

}  // namespace
}  // namespace nt

#include "../entry/count_non_finite.h"
