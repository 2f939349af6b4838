// Rows of activations as the memory-bound kernels read and write them: in chunks of 16 bytes (8 bf16 or 4 float32) a
// thread. `vector` promises that every chunk is whole and 16-byte aligned; without it a chunk moves element by element
// and ends where the row does, so that any width and any view works.
#pragma once
#include "gpu.h"

namespace nt {

template <class T>
constexpr int kChunk = Pack<T>::size;

// Null is aligned: what is absent does not forbid the fast path.
inline bool aligned16(const void *p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }
template <class... Pointers>
inline bool aligned16(const void *p, Pointers... rest) {
  return aligned16(p) && aligned16(rest...);
}

// A chunk whose first `left` elements belong to the row; the others are 0.
template <bool vector, class T>
__device__ __forceinline__ Pack<T> load_chunk(const T *p, int left) {
  if constexpr (vector) {
    return load_pack(p);
  } else {
    Pack<T> pack;
    NT_UNROLL
    for (int i = 0; i < kChunk<T>; i++) pack.x[i] = i < left ? p[i] : from_float<T>(0.0f);
    return pack;
  }
}

// The same for what nobody reads again soon.
template <bool vector, class T>
__device__ __forceinline__ Pack<T> load_chunk_once(const T *p, int left) {
  if constexpr (vector)
    return load_pack_once(p);
  else
    return load_chunk<false>(p, left);
}

template <bool vector, class T>
__device__ __forceinline__ void store_chunk(T *p, const Pack<T> &pack, int left) {
  if constexpr (vector) {
    store_pack(p, pack);
  } else {
    NT_UNROLL
    for (int i = 0; i < kChunk<T>; i++)
      if (i < left) p[i] = pack.x[i];
  }
}

template <bool vector, class T>
__device__ __forceinline__ void store_chunk_once(T *p, const Pack<T> &pack, int left) {
  if constexpr (vector)
    store_pack_once(p, pack);
  else
    store_chunk<false>(p, pack, left);
}

// N columns of any type as float32: 8, 16 or 32 bytes, so that arrays of both widths go together.
template <bool vector, int N, class T>
__device__ __forceinline__ void load_columns(float (&x)[N], const T *p, int left) {
  if constexpr (vector) {
    constexpr int bytes = N * int(sizeof(T));
    T values[N];
    if constexpr (bytes == 8) {
      const uint2 bits = *reinterpret_cast<const uint2 *>(p);
      memcpy(static_cast<void *>(values), &bits, 8);
    } else {
      NT_UNROLL
      for (int i = 0; i < bytes / 16; i++) {
        const Pack<T> pack = load_pack(p + i * kChunk<T>);
        NT_UNROLL
        for (int k = 0; k < kChunk<T>; k++) values[i * kChunk<T> + k] = pack.x[k];
      }
    }
    NT_UNROLL
    for (int i = 0; i < N; i++) x[i] = to_float(values[i]);
  } else {
    NT_UNROLL
    for (int i = 0; i < N; i++) x[i] = i < left ? to_float(p[i]) : 0.0f;
  }
}

template <bool vector, int N>
__device__ __forceinline__ void store_columns(float *p, const float (&x)[N], int left) {
  if constexpr (vector) {
    NT_UNROLL
    for (int i = 0; i < N; i += 4) store_pack(p + i, Pack<float>{{x[i], x[i + 1], x[i + 2], x[i + 3]}});
  } else {
    NT_UNROLL
    for (int i = 0; i < N; i++)
      if (i < left) p[i] = x[i];
  }
}

// Where thread number `index` of an elementwise kernel works, in a matrix of `chunks` chunks a row. The 64-bit
// division, a subroutine, is left to matrices beyond 2³² chunks.
struct ChunkPlace {
  int64_t row, chunk;
};
__device__ __forceinline__ ChunkPlace chunk_place(uint64_t index, uint32_t chunks) {
  if (index >> 32 == 0) {
    const uint32_t row = uint32_t(index) / chunks;
    return {int64_t(row), int64_t(uint32_t(index) - row * chunks)};
  }
  const uint64_t row = index / chunks;
  return {int64_t(row), int64_t(index - row * chunks)};
}

// The thread's number in the grid.
__device__ __forceinline__ uint64_t global_thread() { return uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

// The sample in which token t lies, borders[s] ≤ t < borders[s + 1], by bisection: neighbors find the same words in
// the L1 cache.
__device__ __forceinline__ int sample_of(const int32_t *borders, int32_t sequences, int32_t t) {
  int low = 0, high = sequences;
  while (high - low > 1) {
    const int middle = (low + high) >> 1;
    if (borders[middle] <= t)
      low = middle;
    else
      high = middle;
  }
  return low;
}

}  // namespace nt
