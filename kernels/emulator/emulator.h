// CUDA for g++: what gpu.h gives kernels under nvcc, on the CPU, one fiber a CUDA thread (runtime.h). Exact in what it
// computes up to rounding in the last places; strict about what the hardware leaves undefined. Tests of these promises:
// test/emulator.
//
// Not emulated: contraction to FMA, occupancy, time. A thread that spins on another's store hangs.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#include <tuple>
#include <type_traits>

#include "runtime.h"

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __shared__ static_assert(false, "shared memory: NT_SHARED or NT_DYNAMIC_SHARED");

#define threadIdx (::nt::emulator::current->index)
#define blockIdx (::nt::emulator::block_index)
#define blockDim (::nt::emulator::block_size)
#define gridDim (::nt::emulator::grid_size)
#define warpSize 32

// (In a struct, so that an __align__ before the type counts.)
#define NT_SHARED(type, name, dimensions)                                                      \
  static char name##_key_;                                                                     \
  struct name##_holder_ {                                                                      \
    type variable dimensions;                                                                  \
  };                                                                                           \
  auto &name = static_cast<name##_holder_ *>(::nt::emulator::shared_variable(                  \
                   &name##_key_, sizeof(name##_holder_), alignof(name##_holder_)))->variable
#define NT_DYNAMIC_SHARED(name) \
  unsigned char *const name = static_cast<unsigned char *>(::nt::emulator::dynamic_shared())
#define NT_UNROLL
#define NT_NO_UNROLL

#include "atomics.h"
#include "builtins.h"

namespace nt {
namespace emulator {

template <class T>
bool is_argument(const T &value) {
  if constexpr (std::is_pointer<T>::value) return !is_host_memory(value);
  return true;
}

}  // namespace emulator

template <class... Parameters, class... Arguments>
inline cudaError_t enqueue(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                          Arguments &&...arguments) {
  if (!emulator::is_of_current_device(stream)) return emulator::refuse_stream(reinterpret_cast<const void *>(kernel));
  static_assert((std::is_trivially_copyable<Parameters>::value && ...), "what a kernel's parameters must be");
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> values;
  };
  static_assert(alignof(Call) <= 16, "as the emulator keeps them");
  const Call call{kernel, std::tuple<Parameters...>(static_cast<Parameters>(arguments)...)};
  // Only what is a pointer by its type: in a struct, bytes between fields may hold anything.
  bool on_device = true;
  std::apply([&](const auto &...values) { ((on_device = on_device && emulator::is_argument(values)), ...); }, call.values);
  if (!on_device) return emulator::refuse_argument(reinterpret_cast<const void *>(kernel));
  return emulator::enqueue_grid(
      reinterpret_cast<const void *>(kernel), grid, block, shared,
      [](void *p) { std::apply(static_cast<const Call *>(p)->kernel, static_cast<const Call *>(p)->values); }, &call,
      sizeof call);
}

namespace emulator {

// Each lane reads its own row here, so that a sanitizer blames the right thread; then the warp exchanges them.
__attribute__((always_inline)) inline void load_matrix_rows(WarpOperation operation, uint32_t (&registers)[4],
                                                            const void *row, const char *file, int line) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("%s:%d: ldmatrix: a row is not 16-byte aligned", file, line);
  check_shared(row, 16, "ldmatrix: a row", file, line);
  const uint32_t *words = static_cast<const uint32_t *>(row);
  MatrixLoad load{row, {words[0], words[1], words[2], words[3]}, {}};
  warp_collective(operation, 0xFFFFFFFFu, &load, false, file, line);
  memcpy(registers, load.result, sizeof load.result);
}

// See CopyOperation; T: as many words as are copied at once. By assignments, which ThreadSanitizer sees, unlike a memset.
template <class T>
inline void copy_words(void *destination, const void *source) {
  if (source == destination) {
    T no_numbers;
    memset(&no_numbers, 0xFF, sizeof no_numbers);
    *static_cast<T *>(destination) = no_numbers;
  } else if (source == nullptr) {
    *static_cast<T *>(destination) = T{};
  } else {
    *static_cast<T *>(destination) = *static_cast<const T *>(source);
  }
}

template <class T>
__attribute__((always_inline)) inline void copy_async_words(void *destination, const void *source, bool valid,
                                                            const char *file, int line) {
  if ((reinterpret_cast<uintptr_t>(destination) | reinterpret_cast<uintptr_t>(source)) % sizeof(T) != 0)
    fail("%s:%d: cp.async: an address is not %d-byte aligned", file, line, int(sizeof(T)));
  check_shared(destination, sizeof(T), "cp.async: the destination", file, line);
  if (counting) {
    if (valid) count_access(source, sizeof(T), false);
    count_access(destination, sizeof(T), true);
  }
  copy_async(destination, source, valid, copy_words<T>);
}

}  // namespace emulator

inline void load_matrix(uint32_t (&registers)[4], const void *row, NT_CALLER) {
  emulator::load_matrix_rows(emulator::warp_load_matrix, registers, row, file, line);
}
inline void load_matrix_transposed(uint32_t (&registers)[4], const void *row, NT_CALLER) {
  emulator::load_matrix_rows(emulator::warp_load_matrix_transposed, registers, row, file, line);
}

inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, NT_CALLER) {
  emulator::MatrixProduct product{d, a, {b0, b1}};
  emulator::warp_collective(emulator::warp_mma, 0xFFFFFFFFu, &product, false, file, line);
}

__attribute__((always_inline)) inline void copy_async(void *destination, const void *source, bool valid = true,
                                                      NT_CALLER) {
  emulator::copy_async_words<uint4>(destination, source, valid, file, line);
}
__attribute__((always_inline)) inline void copy_async_half(void *destination, const void *source, bool valid, NT_CALLER) {
  emulator::copy_async_words<uint2>(destination, source, valid, file, line);
}
inline void copy_async_commit() { emulator::copy_async_commit(); }
template <int pending>
inline void copy_async_wait() {
  emulator::copy_async_wait(pending);
}

__attribute__((always_inline)) inline void note_load(const void *p, NT_CALLER) {
  emulator::note_access(p, 16, 16, false, file, line);
}

__attribute__((always_inline)) inline void store_global(void *p, const uint4 &x, NT_CALLER) {
  emulator::note_access(p, 16, 16, true, file, line);
  if (emulator::is_shared(p))
    emulator::fail("%s:%d: a store to global memory at an address of shared memory", file, line);
  *static_cast<uint4 *>(p) = x;
}

// gpu.h's sum_by_shuffles and max_by_shuffles, to the bit, in one meeting of the warp.
inline float warp_sum(float x, NT_CALLER) {
  emulator::warp_collective(emulator::warp_sum, 0xFFFFFFFFu, &x, false, file, line);
  return x;
}
inline float warp_max(float x, NT_CALLER) {
  emulator::warp_collective(emulator::warp_max, 0xFFFFFFFFu, &x, false, file, line);
  return x;
}

inline float exp2_fast(float x) {
  float y = exp2f(x);
  return y < 1.17549435e-38f ? 0.0f : y;
}

// F16C's instructions by their built-ins: immintrin.h would take most of the time that a kernel file's headers take.
typedef float Floats __attribute__((vector_size(16)));
typedef short Halves __attribute__((vector_size(16)));
inline uint16_t to_f16(float x) { return uint16_t(__builtin_ia32_vcvtps2ph(Floats{x}, 0)[0]); }
inline float from_f16(uint16_t bits) { return __builtin_ia32_vcvtph2ps(Halves{short(bits)})[0]; }

inline int computed_here(int x) { return x; }

}  // namespace nt
