// Conversions between dtypes on the device (nt_cast).
#include "cast.h"

#include "../bf16.h"
#include "f16.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 256;

// Unlike CUDA's own conversions these keep a NaN's bits, as the CPU backend does.
template <class From>
__device__ __forceinline__ float widen(From x) {
  return to_float(x);
}
template <>
__device__ __forceinline__ float widen<f16>(f16 x) {
  return nt_f16_to_float(x.bits);
}

template <class To>
__device__ __forceinline__ To narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 narrow<bf16>(float x) {
  const nt_bf16 bits = nt_float_to_bf16(x);
  bf16 result;
  memcpy(static_cast<void *>(&result), &bits, 2);
  return result;
}

// y = source, a chunk of y a thread. `vector`: both 16-byte aligned, and whole chunks but for the last; without it the
// source is read byte by byte, whatever its alignment. Bytes an element: one read, one write.
template <class To, class From, bool vector>
__global__ void __launch_bounds__(kThreads, 4) convert_kernel(To *y, const unsigned char *source, int64_t n) {
  constexpr int N = kChunk<To>;
  const int64_t i = int64_t(global_thread()) * N;
  if (i >= n) return;
  const int64_t left = n - i;
  const unsigned char *bytes = source + i * int64_t(sizeof(From));
  From values[N];
  Pack<To> out;
  if (vector && left >= N) {
    constexpr int kBytes = N * int(sizeof(From));
    if constexpr (kBytes == 8) {
      const uint2 bits = *reinterpret_cast<const uint2 *>(bytes);
      memcpy(static_cast<void *>(values), &bits, 8);
    } else {
      NT_UNROLL
      for (int k = 0; k < kBytes / 16; k++) {
        const uint4 bits = *reinterpret_cast<const uint4 *>(bytes + 16 * k);
        memcpy(static_cast<void *>(values + k * (N / (kBytes / 16))), &bits, 16);
      }
    }
    NT_UNROLL
    for (int k = 0; k < N; k++) out.x[k] = narrow<To>(widen(values[k]));
    store_pack(y + i, out);
    return;
  }
  NT_UNROLL
  for (int k = 0; k < N; k++) {
    if (k >= left) break;
    unsigned char element[sizeof(From)];
    NT_UNROLL
    for (int b = 0; b < int(sizeof(From)); b++) element[b] = bytes[k * int(sizeof(From)) + b];
    From value;
    memcpy(static_cast<void *>(&value), element, sizeof(From));
    y[i + k] = narrow<To>(widen(value));
  }
}

template <class From, class To>
int32_t convert_to(nt_context *context, To *y, const void *source, int64_t n) {
  const bool vector = aligned16(y, source);
  auto *kernel = vector ? convert_kernel<To, From, true> : convert_kernel<To, From, false>;
  NT_CUDA(launch(kernel, dim3(unsigned(ceil_div(n, kThreads * kChunk<To>))), dim3(kThreads), 0, context->stream, y,
                 static_cast<const unsigned char *>(source), n),
          "cast");
  return NT_OK;
}

}  // namespace

int32_t convert(nt_context *context, void *destination, int32_t destination_dtype, const void *source,
                int32_t source_dtype, int64_t n) {
  if (n == 0) return NT_OK;
  if (destination_dtype == source_dtype) {
    NT_CUDA(cudaMemcpyAsync(destination, source, size_t(n * size_of(source_dtype)), cudaMemcpyDeviceToDevice,
                            context->stream),
            "cast");
    return NT_OK;
  }
  auto *y32 = static_cast<float *>(destination);
  auto *y16 = static_cast<bf16 *>(destination);
  if (destination_dtype == NT_F32)
    return source_dtype == NT_BF16 ? convert_to<bf16>(context, y32, source, n)
                                   : convert_to<f16>(context, y32, source, n);
  return source_dtype == NT_F32 ? convert_to<float>(context, y16, source, n)
                                : convert_to<f16>(context, y16, source, n);
}

}  // namespace nt
